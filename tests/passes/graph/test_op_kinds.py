from __future__ import annotations

import operator

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from mhc_compile.passes.graph.op_kinds import (
    KINDS,
    LIFTABLE,
    LINEAR,
    MODULES,
    Kind,
    canonical_name,
    is_inplace,
    kind_of,
)


def node(op: str, target, *args, **kwargs) -> fx.Node:
    graph = fx.Graph()
    x = graph.placeholder("x")
    return graph.create_node(op, target, (x, *args), kwargs)


def function(target, *args, **kwargs) -> fx.Node:
    return node("call_function", target, *args, **kwargs)


def method(target, *args, **kwargs) -> fx.Node:
    return node("call_method", target, *args, **kwargs)


def module(leaf: nn.Module) -> fx.Node:
    return next(n for n in fx.symbolic_trace(nn.Sequential(leaf)).graph.nodes if n.op == "call_module")


@pytest.mark.parametrize("same", [
    [function(torch.relu), function(F.relu), method("relu"), method("relu_"), function(torch.ops.aten.relu.default),
     function(torch.ops.aten.relu_.default), module(nn.ReLU())],
    [function(operator.add, 1), function(operator.iadd, 1), function(torch.add, 1), method("add_", 1),
     function(torch.ops.aten.add.Tensor, 1), function(torch.ops.aten.add_.Scalar, 1)],
    [function(F.layer_norm, (4,)), function(torch.ops.aten.layer_norm.default, (4,)), module(nn.LayerNorm(4))],
    [method("view", 2), function(torch.ops.aten.view.default, [2])],
    [function(F.dropout), module(nn.Dropout()), function(torch.ops.aten.dropout.default, 0.5, True)],
])  # fmt: skip
def test_an_op_has_one_name_and_one_kind_in_all_dialects(same):
    assert len({canonical_name(n) for n in same}) == 1
    assert len({kind_of(n) for n in same}) == 1 and kind_of(same[0]) is not Kind.OPAQUE


@pytest.mark.parametrize(("made", "kind"), [
    (function(operator.mul, 2), Kind.SCALE), (method("div_", 2), Kind.SCALE), (function(operator.sub, 2), Kind.SUB),
    (method("to", torch.float16), Kind.CAST), (method("bfloat16"), Kind.CAST), (method("contiguous"), Kind.COPY),
    (method("permute", 1, 0), Kind.SHAPE), (function(torch.flatten, 1), Kind.SHAPE), (function(F.gelu), Kind.POINTWISE),
    (method("mean", -1), Kind.REDUCE), (module(nn.GroupNorm(2, 4)), Kind.FOLDED), (method("chunk", 2), Kind.SELECT),
    (function(operator.getitem, 0), Kind.SELECT), (module(nn.AvgPool2d(2)), Kind.POOL), (method("size"), Kind.METADATA),
    (function(getattr, "shape"), Kind.METADATA), (function(torch.zeros_like), Kind.METADATA),
    (method("div", 2, rounding_mode=None), Kind.SCALE), (method("div", 2, rounding_mode="floor"), Kind.POINTWISE),
    (function(torch.ops.aten.div.Tensor_mode, 2, rounding_mode="trunc"), Kind.POINTWISE),
    (function(operator.floordiv, 2), Kind.POINTWISE), (method("floor_divide_", 2), Kind.POINTWISE),
])  # fmt: skip
def test_kinds(made, kind):
    assert kind_of(made) is kind


@pytest.mark.parametrize("made", [
    function(F.linear), function(torch.matmul), function(torch.sort), module(nn.Linear(2, 2)), method("sort", 0),
    function(getattr, "T"), method("view", torch.int32), method("view", dtype=torch.int32),
    function(torch.ops.aten.view.dtype, torch.int32),
])  # fmt: skip
def test_kind_of_rejects_what_it_does_not_know(made):
    assert kind_of(made) is Kind.OPAQUE


def test_inputs_and_attributes_are_opaque():
    graph = fx.Graph()
    assert {kind_of(graph.placeholder("x")), kind_of(graph.create_node("get_attr", "add"))} == {Kind.OPAQUE}


def add(x, y):
    return x @ y


class ReLU(nn.Module):
    def forward(self, x):
        return x.flip(0)


def test_a_users_own_function_or_module_is_not_taken_for_the_one_of_torch():
    assert kind_of(function(add, 1)) is Kind.OPAQUE and canonical_name(function(add, 1)).endswith(".add")

    class KeepLeaves(fx.Tracer):
        def is_leaf_module(self, m, name):
            return isinstance(m, ReLU)

    root = nn.Sequential(ReLU())
    gm = fx.GraphModule(root, KeepLeaves().trace(root))
    call = next(n for n in gm.graph.nodes if n.op == "call_module")
    assert canonical_name(call) == "ReLU" and kind_of(call) is Kind.OPAQUE


def test_ops_of_other_namespaces_keep_their_namespace():
    with torch.library._scoped_library("toy", "FRAGMENT") as library:
        library.define("add(Tensor x) -> Tensor")
        assert canonical_name(function(torch.ops.toy.add.default)) == "toy_add"
        assert kind_of(function(torch.ops.toy.add.default)) is Kind.OPAQUE


@pytest.mark.parametrize("made", [
    method("add_", 1), function(operator.iadd, 1), function(torch.relu_), function(F.relu, inplace=True),
    function(F.relu, True), function(F.dropout, 0.5, False, True), function(torch.ops.aten.mul_.Tensor, 2),
    function(operator.imod, 2), function(operator.ifloordiv, 2), function(operator.ior, 1),
    function(operator.setitem, 0, 1.0), function(F.leaky_relu, 0.1, True), method("index_add_", 0),
])  # fmt: skip
def test_writes_are_seen(made):
    assert is_inplace(made)


@pytest.mark.parametrize("made", [
    function(operator.and_, 1), method("__and__", 1), function(F.relu, False), function(F.dropout, 0.5, True),
    method("requires_grad_"), function(operator.add, 1), module(nn.ReLU(inplace=False)),
])  # fmt: skip
def test_is_inplace_rejects_what_only_looks_like_a_write(made):
    assert not is_inplace(made)


def test_every_module_name_has_a_kind():
    assert all(KINDS[name] is not Kind.OPAQUE and hasattr(nn, module) for module, name in MODULES.items())


def test_linear_kinds_are_liftable():
    assert LINEAR < LIFTABLE and not LIFTABLE & {Kind.OPAQUE, Kind.POOL, Kind.METADATA}


def test_every_decomposed_aten_op_of_an_activation_has_a_kind():
    gm = make_fx(lambda x: F.silu(F.gelu(x) * 2 + F.layer_norm(x, (4,))).to(torch.float16))(torch.randn(3, 4))
    kinds = {n.name: kind_of(n) for n in gm.graph.nodes if n.op == "call_function" and "layer_norm" not in n.name}
    assert Kind.OPAQUE not in {kind for name, kind in kinds.items() if not name.startswith("getitem")}
