from __future__ import annotations

import copy
import io
import threading

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import mhc_compile
from mhc_compile.errors import CaptureError
from mhc_compile.programs.dispatch import kind_of
from tests.moved import Net, X, moved, net, programs


class Halved(Net):
    def forward(self, x: Tensor, count: int = 1) -> Tensor:
        return super().forward(x) / count


def test_a_mode_or_an_attribute_that_is_switched_to_and_fro_is_traced_once():
    t = net()
    train = t(X)
    for _ in range(3):
        t.eval()(X)
        t.blocks[1].drop.p = 0.25  # read in training, and looked up in both
        t.blocks[1].drop.p = 0.0
        assert_close(t.train()(X), train)
    assert programs(t) == 2


def test_sizes_are_open_where_they_changed_once():
    t = moved(Net(), example_inputs=(X,))
    for length in range(2, 9):
        assert_close(t(X[:, :3].repeat(1, length, 1))[:, :3], t(X[:, :3]), atol=1e-5, rtol=1e-5)
    assert programs(t) == 1


def test_a_number_is_open_from_its_second_value_on():
    t = moved(Halved(), example_inputs=(X, 1))
    want = t(X, 1)
    for count in range(2, 12):
        assert_close(t(X, count), want / count)
    assert programs(t) == 1


class Convolved(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(x)


class Passed(nn.Module):
    """Messages along the edges of a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(4, 4)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        return x + torch.zeros_like(x).index_add(0, edges[1], self.mix(x)[edges[0]])


def test_heights_and_widths_are_open_once_both_changed():
    t = moved(nn.Sequential(Convolved(), Convolved()), example_inputs=(torch.randn(2, 4, 6, 6),))
    for size in range(7, 17):
        t(torch.randn(2, 4, size, 30 - size))
    assert programs(t) <= 3 and not t._mhc.entry("").kinds  # none is left to Dynamo


def test_numbers_of_nodes_and_edges_are_open():
    def graph(nodes: int, edges: int) -> tuple[Tensor, Tensor]:
        return torch.randn(nodes, 4), torch.randint(0, nodes, (2, edges))

    t = moved(Passed(), example_inputs=graph(5, 9))
    for nodes in range(6, 16):
        t(*graph(nodes, 40 - nodes))
    assert programs(t) <= 3 and not t._mhc.entry("").kinds


def test_nan_is_a_number_like_others():
    class Given(Net):
        def forward(self, x: Tensor, scale: float) -> Tensor:
            return super().forward(x) * (0.5 if scale != scale else scale)

    t = moved(Given(), example_inputs=(X, 1.0))
    want = t(X, 1.0)
    for scale in (float("nan"), 2.0, float("nan"), float("nan"), 3.0):
        assert_close(t(X, scale), want * (0.5 if scale != scale else scale))
    assert programs(t) == 1


def test_kinds_of_calls_leave_out_sizes_and_numbers_but_not_modes():
    t = net()
    first = kind_of(t, [X, 1, "a"], None)
    assert first == kind_of(t, [X[:1], 2, "a"], None)
    assert first != kind_of(t, [X, 1, "b"], None)
    assert first != kind_of(t, [X.double(), 1, "a"], None)
    with torch.no_grad():
        assert first != kind_of(t, [X, 1, "a"], None)


def test_first_calls_from_several_threads_are_right_and_trace_once():
    t = net().eval()
    found: list[Tensor | None] = [None] * 4

    def call(index: int) -> None:
        found[index] = t(X)

    threads = [threading.Thread(target=call, args=(i,)) for i in range(len(found))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    want = t(X)
    for result in found:
        assert result is not None
        assert_close(result, want)
    assert programs(t) == 2


def test_a_copy_has_the_programs_and_its_own_modules_to_look_at():
    t = net()
    want = t(X)
    other = copy.deepcopy(t)
    other.blocks[0].drop.p = 1.0
    assert_close(t(X), want)
    assert not torch.allclose(other(X), want)
    assert (programs(t), programs(other)) == (1, 2)


def test_a_pickle_traces_again_what_it_needs():
    t = net()
    want, door = t(X), t.blocks[0](X)
    file = io.BytesIO()
    torch.save(t, file)
    file.seek(0)
    other = torch.load(file, weights_only=False)
    assert programs(other) == 0
    assert_close(other(X), want)
    assert_close(other.blocks[0](X), door)


def test_other_parameters_for_one_call_lead_to_no_trace():
    t = net()
    want = t(X)
    values = {name: p.detach() * 1.5 for name, p in t.named_parameters()}
    found = torch.func.functional_call(t, values, (X,))
    assert not torch.allclose(found, want)
    assert_close(t(X), want)
    other = copy.deepcopy(t)
    other.load_state_dict(values, strict=False)
    assert_close(found, other(X))
    assert programs(t) == 1


@pytest.mark.parametrize("path", ["", "blocks.1"])
def test_the_first_call_of_a_kind_may_be_one_with_other_parameters(path):
    """Plain tensors then are in the places of parameters, and a trace must take them for such."""
    t = net()
    part, x = t.get_submodule(path), X[0]
    values = {name: p.detach().clone().requires_grad_() for name, p in part.named_parameters()}
    found = torch.func.functional_call(part, values, (x,))
    found.sum().backward()
    assert all(value.grad is not None for value in values.values())
    assert_close(found, part(x))
    assert not torch.allclose(found, mhc_compile.revert(t).get_submodule(path)(x))


def test_frozen_parts_lead_to_no_trace():
    t = net()
    t.stem.requires_grad_(False)
    t(X).sum().backward()
    assert t.stem.weight.grad is None and t.head.weight.grad is not None
    assert programs(t) == 1


class Counted(Net):
    steps = 0

    def forward(self, x: Tensor) -> Tensor:
        self.steps += 1
        return super().forward(x)


def test_a_first_call_inside_a_transform_is_traced_as_outside():
    models = [net().eval(), net().eval()]
    with torch.no_grad():
        models[1].stem.weight.mul_(2)
    values, buffers = torch.func.stack_module_state(models)
    base = copy.deepcopy(models[0])
    found = torch.vmap(lambda v, b: torch.func.functional_call(base, (v, b), (X,)))(values, buffers)
    for one, model in zip(found, models, strict=True):
        assert_close(one, model(X))
    assert programs(base) == 2
    direction = torch.ones_like(X)
    _, forward = torch.func.jvp(copy.deepcopy(models[0]), (X,), (direction,))
    _, after = torch.func.jvp(models[0], (X,), (direction,))
    assert_close(forward, after)


def test_what_is_no_one_graph_is_refused_inside_a_transform():
    t = moved(Counted())
    with pytest.raises(CaptureError, match="inside of a transform"):
        torch.func.grad(lambda x: t(x).sum())(X)
