"""What is fused, what is not and why, and that the numbers stay the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mhc_compile.config import Config
from mhc_compile.kernels.operators import single_pass, streams
from mhc_compile.passes import order as pipeline
from mhc_compile.passes.order import make_plan
from mhc_compile.passes.plan.steps import StepKind, Unfused
from tests.passes.graphs import captured, error, flat, passed, plan_of, preserved, rewritten, trained
from tests.passes.layers import Net, mlps, tokens
from tests.passes.shapes import SHAPES
from tests.tables import also

X = tokens()


def net(body, **layers):
    torch.manual_seed(0)
    return Net(body, n=nn.LayerNorm(8), **mlps(4), **layers).double().eval()


def chain(m, x):
    x = x + m.f0(m.n(x))
    x = x + m.f1(m.n(x))
    return x + m.f2(m.n(x))


def calls(gm) -> list[str]:
    """Names of the kernel calls of a graph, in order."""
    kernels = {f for module in (streams, single_pass) for f in vars(module).values() if callable(f)}
    return [n.target.__name__ for n in gm.graph.nodes if n.target in kernels]


def steps(model, *inputs, **options) -> list[tuple[str, str, str, str]]:
    """`(kind, site written, site gated, reason)` of every step of a plan."""
    plan = plan_of(model, *inputs, **options)
    return [(s.kind.name, s.writes, s.gates, s.reason.name if s.reason else "") for s in plan.steps]


def test_a_chain_is_one_kernel_per_boundary():
    gm, _ = rewritten(net(chain), X)
    assert calls(gm) == ["entry_gate", "entry_boundary", "boundary", "leave"]
    assert steps(net(chain), X) == [
        ("ENTRY", "", "f0", ""), ("BOUNDARY", "f0", "f1", ""), ("BOUNDARY", "f1", "f2", ""), ("LEAVE", "f2", "", ""),
    ]  # fmt: skip


def test_one_site_enters_and_leaves_without_streams():
    gm, _ = rewritten(net(lambda m, x: x + m.f0(x)), X)
    assert calls(gm) == ["entry_gate", "entry_leave"]


def test_an_operation_on_the_streams_keeps_sites_apart():
    model = net(lambda m, x: (h := torch.relu(x + m.f0(x))) + m.f1(h))
    gm, plan = rewritten(model, X)
    assert calls(gm) == ["entry_gate", "entry_write_packed", "gate", "leave"]
    assert [(s.reason, s.detail) for s in plan.steps if s.reason] == [(Unfused.LIFTED, "relu")] * 2


def test_a_learned_readout_needs_the_streams():
    assert steps(net(chain), X, reduce="learned")[-1] == ("WRITE", "f2", "", "LEARNED")
    gm, _ = rewritten(net(chain), X, reduce="learned")
    assert calls(gm)[-2:] == ["write_packed", "reduce"]


def test_a_sum_of_the_streams_is_part_of_the_last_write():
    (summed, _), (mean, _) = (rewritten(net(chain), X, reduce=how, init="random") for how in ("sum", "mean"))
    for ours, theirs in zip(*(gm.hyper_connections.parameters() for gm in (mean, summed)), strict=True):
        ours.data = theirs.data
    assert calls(summed)[-1] == "leave"
    assert error(summed(X), 4 * mean(X)) <= 1e-10


def test_collected_states_are_read_out_beside_the_boundaries():
    def body(m, x):
        h = x + m.f0(x)
        return h, h + m.f1(h)

    gm, _ = rewritten(net(body), X)
    assert calls(gm) == ["entry_gate", "entry_boundary", "reduce", "leave"]


def test_the_second_reader_of_a_write_has_a_gate_of_its_own():
    model = net(lambda m, x: ((h := x + m.f0(x)) + m.f1(h), h + m.f2(h)))
    gm, _ = rewritten(model, X)
    assert ("GATE", "", "f2", "SHARED") in steps(model, X)
    assert calls(gm) == ["entry_gate", "entry_boundary", "gate", "leave", "leave"]


def test_a_site_whose_tokens_change_their_order_is_not_fused():
    """Its coefficients are computed in the order of the base, and its channels stay where they are."""

    def body(m, x):
        h = x + m.f0(x)
        h = h.transpose(1, 2) + m.f1(h).transpose(1, 2)
        return h + m.f2(h)

    found = steps(net(body), tokens(2, 3, 4, 8))
    assert [step for step in found if step[0] == "PLAIN"] == [("PLAIN", "f1", "f1", "MOVED_AXES")]


def test_sites_that_mix_over_different_axes_stay_apart():
    """As in TSMixer, where one layer mixes over time and the next over features, and no norm says which are channels.

    Where both axes have one size, a kernel for the wrong one would run without an error.
    """

    def body(m, x):
        x = x + m.f0(x.transpose(1, 2)).transpose(1, 2)
        return x + m.f1(x)

    err, plan = trained(net(body), tokens(2, 8, 8))
    assert [site.channel_axis for site in plan.sites] == [1, 2] and err <= 1e-10
    assert [(s.kind.name, s.gates) for s in plan.steps if s.reason is Unfused.AXES] == [("WRITE", ""), ("GATE", "f1")]


@pytest.mark.parametrize("connection", ["hc-static", "gated"])
def test_connections_without_fused_steps_stay_in_plain_pytorch(connection):
    plan = plan_of(net(chain), X, connection=connection)
    assert {(s.kind, s.reason, s.detail) for s in plan.steps} == {(StepKind.PLAIN, Unfused.CONNECTION, connection)}


@pytest.mark.parametrize("connection", ["hc", "mhc-lite", "kronecker", "circulant", "identity:magnitude=1.5,eps=0.01"])
def test_other_connections_run_through_the_same_steps(connection):
    gm, plan = rewritten(net(chain), X, connection=connection)
    assert calls(gm) == ["entry_gate", "entry_boundary", "boundary", "leave"]
    assert plan.connection == connection and {s.reason for s in plan.steps} == {None}
    assert preserved(net(chain), X, connection=connection)[0] <= 1e-10


def test_single_pass_hands_the_read_weights_from_boundary_to_boundary():
    gm, plan = rewritten(net(chain), X, connection="mhc-single-pass")
    assert calls(gm) == ["entry_single_gate", "entry_single_boundary", "single_boundary", "single_leave"]
    assert {s.reason for s in plan.steps} == {None}


def test_who_reads_single_pass_streams_on_their_own_gets_the_weights_unpacked():
    model = net(lambda m, x: ((h := x + m.f0(x)) + m.f1(h), h + m.f2(h)))
    gm, _ = rewritten(model, X, connection="mhc-single-pass")
    assert ("GATE", "", "f2", "SHARED") in steps(model, X, connection="mhc-single-pass")
    assert calls(gm) == [
        "entry_single_gate", "entry_read_weights", "entry_single_boundary", "single_gate", "read",
        "single_leave", "single_leave",
    ]  # fmt: skip
    summed, _ = rewritten(net(chain), X, connection="mhc-single-pass", reduce="sum", init="random")
    assert calls(summed)[-1] == "leave"


def test_sites_of_different_checkpointed_blocks_stay_apart():
    model, inputs = SHAPES["checkpointed whole"].make()
    plan = plan_of(model, *inputs, front_end="dynamo")
    assert Unfused.CHECKPOINT in {s.reason for s in plan.steps}


@pytest.mark.parametrize("name", SHAPES)
def test_every_write_and_every_gate_lies_in_exactly_one_step(name):
    gm, *_ = captured(name)
    plan = make_plan(gm, Config())
    keys = sorted(s.key for s in plan.sites)
    assert sorted(s.gates for s in plan.steps if s.gates) == keys
    assert sorted(s.writes for s in plan.steps if s.writes) == keys
    fused = (StepKind.ENTRY, StepKind.BOUNDARY, StepKind.LEAVE)
    assert all((s.reason is None) == (s.kind in fused) for s in plan.steps)


NAMES = [name for name, shape in SHAPES.items() if shape.keys]
FEW = ("pre-norm", "post-norm", "checkpointed whole")


@pytest.mark.parametrize(
    ("connection", "name"),
    [
        *(("mhc", name) for name in NAMES),
        *(("mhc-single-pass", name) for name in FEW),
        *also(*(("mhc-single-pass", name) for name in NAMES if name not in FEW)),
        *also(*((connection, name) for connection in ("mhc-lite", "circulant", "identity") for name in FEW)),
    ],
)
def test_the_fused_graph_computes_what_the_separate_steps_do(connection, name, monkeypatch):
    """With every parameter moved away from its start, where streams differ and no symmetry hides a mistake."""
    gm, model, inputs = captured(name)
    fused, plan = passed(gm, model, connection=connection)
    monkeypatch.setattr(pipeline, "fuse", lambda gm, plan: gm)
    gm, model, _ = captured(name)
    apart, _ = passed(gm, model, connection=connection)
    assert plan.sites
    generator = torch.Generator().manual_seed(1)
    for ours, theirs in zip(*(gm.hyper_connections.parameters() for gm in (fused, apart)), strict=True):
        moved = ours.detach() + 0.3 * torch.randn(ours.shape, generator=generator, dtype=ours.dtype)
        ours.data, theirs.data = moved.clone(), moved.clone()
    outputs = [flat(gm(*inputs)) for gm in (fused, apart)]
    assert error(*outputs) <= 1e-9
    for out in outputs:
        sum(t.square().sum() for t in out if t.is_floating_point()).backward()
    for ours, theirs in zip(*(gm.hyper_connections.parameters() for gm in (fused, apart)), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        if ours.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-7)


def test_the_function_is_kept_with_fused_steps():
    for n in (2, 3, 4):
        assert preserved(net(chain), X, n=n)[0] <= 1e-10


def test_one_stream_is_never_packed():
    assert {s.kind for s in plan_of(net(chain), X, n=1).steps} == {StepKind.PLAIN}


def test_a_plan_without_sites_has_no_steps():
    assert plan_of(nn.Sequential(nn.Linear(8, 8)).double(), X).steps == ()


def test_a_boundary_stands_in_front_of_other_readers_of_its_streams():
    def body(m, x):
        h = x + m.f0(x)
        viewed = h.flatten(0, 1) + m.f1(h).flatten(0, 1)  # read and write see different axes: plain
        return viewed.unflatten(0, h.shape[:2]), h + m.f2(h)

    found = steps(net(body), X)
    assert ("BOUNDARY", "f0", "f2", "") in found and ("PLAIN", "f1", "f1", "MOVED_AXES") in found
    assert preserved(net(body), X)[0] <= 1e-10
