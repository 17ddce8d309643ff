from __future__ import annotations

import pytest
import torch

import mhc_compile
from mhc_compile.config import Config
from mhc_compile.errors import NothingToTransformWarning
from mhc_compile.passes.order import make_plan
from mhc_compile.passes.plan.data import Plan
from tests.passes.graphs import captured, error, plan_of, preserved, reasons, traced
from tests.passes.shapes import SHAPES, Shape
from tests.tables import also

TIGHT = 1e-10
SITES = [name for name, shape in SHAPES.items() if shape.keys]


EXPORTED = ("pre-norm", "resnet stage", "in place", "through a tuple", "through a 2-D view", "shared layers", "U-Net",
            "sliced skip", "checkpointed", "multi-stream", "attention bias", "queries from positions")  # fmt: skip
"""What `torch.export` writes otherwise than the other front ends; of each kind one, the rest in `make exhaustive`."""


def table(names=SHAPES):
    return [pytest.param(SHAPES[name], id=name) for name in names]


def by_front_end(names):
    """`symbolic_trace` of all, `torch.export`, which takes ten times as long, of those that are special."""
    return [
        pytest.param(SHAPES[name], front_end, id=f"{name}-{front_end}", marks=marks)
        for name in names
        for front_end, marks in (
            ("symbolic", ()),
            ("export", () if name in EXPORTED else pytest.mark.exhaustive),
        )
    ]


def some(*names):
    return pytest.mark.parametrize("shape", table(names))


def check_plan(plan: Plan, shape: Shape) -> None:
    assert tuple(s.key for s in plan.sites) == shape.keys
    assert tuple(reasons(plan)) == shape.reasons
    assert len(plan.segments) == shape.segments
    assert sum(len(part.adds) for part in (*plan.sites, *plan.rejected)) == plan.float_adds


@pytest.mark.parametrize("name", SHAPES)
def test_dynamo_finds_the_sites_and_reasons_of_the_table(name: str):
    gm, *_ = captured(name)
    check_plan(make_plan(gm, Config()), SHAPES[name])


@pytest.mark.parametrize(("shape", "front_end"), by_front_end(SITES))
def test_rewrite_finds_the_same_sites_and_preserves_the_function(shape: Shape, front_end: str):
    model, inputs = shape.make()
    expected = model(*inputs)
    gm = torch.fx.symbolic_trace(model) if front_end == "symbolic" else torch.export.export(model, inputs).module()
    new, plan = mhc_compile.rewrite(gm, n=4, example_inputs=inputs if front_end == "symbolic" else None)
    check_plan(plan, shape)
    assert error(new(*inputs), expected) <= TIGHT


@pytest.mark.parametrize(("shape", "front_end"), by_front_end([name for name in SHAPES if name not in SITES]))
def test_the_other_front_ends_reject_what_dynamo_rejects(shape: Shape, front_end: str):
    model, inputs = shape.make()
    check_plan(plan_of(model, *inputs, front_end=front_end), shape)


@some("resnet stage", "in place", "shared layers", "checkpointed whole")
def test_function_is_preserved_by_transform(shape: Shape):
    model, inputs = shape.make()
    mode = "train" if model.training else "eval"
    twin = mhc_compile.transform(model, n=4, example_inputs=inputs, modes=(mode,))
    assert tuple(s.key for s in twin.mhc_plan.sites) == shape.keys
    assert set(shape.keys) == set(twin.hyper_connections.keys())
    assert error(twin(*inputs), model(*inputs)) <= TIGHT


@some("tanh GELU", "RepVGG", "LoRA", "delta rule")
def test_rewrite_leaves_look_alikes_alone(shape: Shape):
    model, inputs = shape.make()
    gm = torch.fx.symbolic_trace(model)
    with pytest.warns(NothingToTransformWarning):
        new, plan = mhc_compile.rewrite(gm, n=4, example_inputs=inputs)
    assert not plan.sites and not hasattr(new, "hyper_connections")
    assert torch.equal(new(*inputs), model(*inputs))


@pytest.mark.usefixtures("without_kernels")
@pytest.mark.parametrize(
    "connection",
    ["residual", "hc", "hc-static", "mhc", "mhc-single-pass", "mhc-lite", "identity", *also("kronecker", "circulant")],
)
@some("pre-norm", "post-norm", "resnet stage", "scaled skip", "through a 2-D view")
def test_function_is_preserved_under_every_connection(shape: Shape, connection: str):
    model, inputs = shape.make()
    err, plan = preserved(model, *inputs, connection=connection)
    assert err <= TIGHT and plan.connection == connection


@pytest.mark.usefixtures("without_kernels")
@pytest.mark.parametrize("n", [1, 3, *also(2, 8)])
@some("convnext", "post-norm, RMSNorm spelled out", "parallel", "added in 2-D", "wide residual")
def test_function_is_preserved_for_every_number_of_streams(shape: Shape, n: int):
    model, inputs = shape.make()
    err, plan = preserved(model, *inputs, n=n)
    assert err <= TIGHT and len(plan.sites) == len(shape.keys)
    assert (plan.parameters == 0) == (n == 1)


@some("pre-norm", "post-norm", "resnet stage", "through a 2-D view")
def test_function_is_preserved_with_a_learned_readout(shape: Shape):
    model, inputs = shape.make()
    err, plan = preserved(model, *inputs, reduce="learned")
    assert err <= TIGHT and all(r.parameters for s in plan.segments for r in s.readouts)


@some("resnet stage", "drop path")
def test_keys_are_the_same_in_training_and_evaluation(shape: Shape):
    model, inputs = shape.make()
    for mode in (True, False):
        assert tuple(s.key for s in plan_of(model.train(mode), *inputs, front_end="dynamo").sites) == shape.keys


@some("pre-norm", "convnext", "parallel", "token shift", "in place")
def test_keys_are_the_same_for_other_shapes(shape: Shape):
    model, (x,) = shape.make()
    sizes = (5, 8, 6, 6) if x.dim() == 4 else (3, 9, 8)
    other = torch.randn(sizes, dtype=x.dtype)
    assert tuple(s.key for s in plan_of(model, other).sites) == shape.keys


@some("resnet stage", "token shift")
def test_keys_are_the_same_with_open_batch_and_sequence_sizes(shape: Shape):
    model, inputs = shape.make()
    gm = traced(model, *inputs, front_end="dynamo")
    plan = make_plan(gm, Config())
    assert tuple(s.key for s in plan.sites) == shape.keys
    assert all(isinstance(s.shape[0], str) for s in plan.sites)  # the batch is a symbol


def test_the_table_names_every_reason_a_float_add_is_left_alone_by_its_structure():
    """Each look-alike is there for a reason; those that depend on options or on sizes have tests of their own."""
    by_structure = {"SCALAR", "BROADCAST", "NOT_ANCESTOR", "NO_WEIGHT", "PROJECTED_SHORTCUT", "RESHAPED_SKIP",
                    "INPUT_INDEPENDENT", "NESTED", "MULTI_STREAM"}  # fmt: skip
    assert {reason for shape in SHAPES.values() for reason in shape.reasons} == by_structure
