from __future__ import annotations

import pytest
import torch
from torch import fx, nn

from mhc_compile.passes.graph.values import (
    attribute,
    carries_data,
    dtype_of,
    flat_nodes,
    location_of,
    module_path_of,
    rank_of,
    same_shape,
    shape_of,
    tensor_of,
    value_of,
)
from tests.passes.graphs import traced
from tests.passes.layers import Mlp, Net, tokens
from tests.passes.residual_blocks import pre_norm


def valued(value=None, **meta) -> fx.Node:
    node = fx.Graph().placeholder("x")
    node.meta.update(meta if value is None else {"val": value})
    return node


def test_values_of_export_and_of_dynamo_are_found():
    x = torch.empty(2, 3)
    assert value_of(valued(x)) is x and value_of(valued(example_value=x)) is x
    assert value_of(valued()) is None and tensor_of(valued(3)) is None


def test_shape_rank_and_dtype():
    node = valued(torch.empty(2, 3, dtype=torch.float16))
    assert (shape_of(node), rank_of(node), dtype_of(node)) == ((2, 3), 2, torch.float16)
    assert (shape_of(valued()), rank_of(valued()), dtype_of(valued())) == ((), None, None)


def test_symbolic_sizes_are_written_as_text():
    gm = traced(Net(lambda m, x: m.f(x), f=Mlp()).double(), tokens(), front_end="dynamo")
    shape = shape_of(next(n for n in gm.graph.nodes if n.op == "placeholder"))
    assert [type(d) for d in shape] == [str, str, int]


@pytest.mark.parametrize(("value", "expected"), [
    (torch.empty(2), True), (torch.empty(2, dtype=torch.complex64), True), (torch.empty(2, dtype=torch.int64), False),
    (torch.empty(2, dtype=torch.bool), False), ((torch.empty(2), 1), True), ((1, 2), False), (3, False), (2.5, False),
])  # fmt: skip
def test_data_is_floating_tensors_and_their_containers(value, expected):
    assert carries_data(valued(value)) is expected


def test_an_unknown_value_may_carry_data():
    assert carries_data(valued())


@pytest.mark.parametrize(("a", "b", "expected"), [
    ((2, 3), (2, 3), True), ((2, 3), (3,), False), ((2, 3), (2, 1), False), ((2, 3), (1, 2, 3), False), ((), (), True),
])  # fmt: skip
def test_same_shape(a, b, expected):
    assert same_shape(valued(torch.empty(a)), valued(torch.empty(b))) is expected


def test_an_unknown_shape_may_be_the_same():
    assert same_shape(valued(), valued(torch.empty(2)))


def test_two_symbols_of_different_size_are_not_the_same_and_expressions_of_equal_size_are():
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    def open_sizes(*shape):
        from torch._subclasses.fake_tensor import FakeTensorMode

        mode = FakeTensorMode(shape_env=env)
        return mode.from_tensor(torch.empty(shape), symbolic_context=None, static_shapes=False)

    env = ShapeEnv()
    x = open_sizes(8, 6)
    rows, columns = x.shape
    assert not same_shape(valued(x), valued(x.new_empty(columns, rows)))
    assert same_shape(valued(x), valued(x.new_empty((rows // 4) * 4, columns)))


def test_attribute_follows_a_path_and_is_none_where_it_ends():
    model = nn.Sequential(nn.Linear(2, 2))
    assert attribute(model, "0.weight") is model[0].weight
    assert attribute(model, "0.missing") is None and attribute(model, "1.weight") is None


def test_location_is_the_innermost_frame_outside_torch():
    trace = ('File "/home/me/model.py", line 7, in forward\n  File "/lib/site-packages/timm/layers.py", line 12, in f\n'
             '  File "/lib/site-packages/torch/nn/modules/linear.py", line 134, in forward\n')  # fmt: skip
    assert location_of(valued(stack_trace=trace)) == "/lib/site-packages/timm/layers.py:12"
    assert location_of(valued()) == "" and location_of(valued(stack_trace=None)) == ""


@pytest.mark.parametrize(("path", "expected"), [
    ("L['self'].layers[0].mlp", "layers.0.mlp"), ("L['self']._modules['layers']['1']", "_modules.layers.1"),
    ("layers.0", "layers.0"), ("", ""),
])  # fmt: skip
def test_module_path(path, expected):
    assert module_path_of(valued(nn_module_stack={"a": ("ignored", nn.Module), "b": (path, nn.Module)})) == expected
    assert module_path_of(valued()) == ""


@pytest.mark.parametrize("front_end", ["dynamo", "symbolic", "export"])
def test_every_front_end_names_the_module_of_an_add(front_end):
    gm = traced(pre_norm().double(), tokens(), front_end=front_end)
    last = next(n for n in reversed(gm.graph.nodes) if n.op == "output").all_input_nodes[0]
    assert module_path_of(last) == "1"


def test_flat_nodes_are_in_order_with_repeats():
    graph = fx.Graph()
    x, y = graph.placeholder("x"), graph.placeholder("y")
    assert flat_nodes((x, [y, {"k": x}], slice(y, None), 3)) == [x, y, x, y]
