"""Which steps restore their streams, and that gradients do not notice."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mhc_compile.config import Config
from mhc_compile.errors import InvalidOptionError
from mhc_compile.kernels.operators import single_pass, streams
from tests.passes.graphs import captured, flat, passed, plan_of, rewritten
from tests.passes.layers import Net, mlps, tokens
from tests.passes.shapes import SHAPES
from tests.tables import also

X = tokens()


def chain_of(m, x, sites):
    for i in range(sites):
        x = x + m.get_submodule(f"f{i}")(m.n(x))
    return x


def chain(m, x):
    return chain_of(m, x, 6)


def net(body=chain):
    torch.manual_seed(0)
    return Net(body, n=nn.LayerNorm(8), **mlps(6)).double().train()


def pasts(gm) -> list[int]:
    """For each step that writes, how many sites it restores its streams from."""
    writing = ("write_packed", "boundary", "leave", "single_boundary", "single_leave")
    named = {**vars(streams), **vars(single_pass)}
    targets = {named[f"{prefix}{name}"] for name in writing for prefix in ("", "entry_")}
    return [len(n.kwargs.get("recompute", ())) // 2 for n in gm.graph.nodes if n.target in targets]


def moved(gm, seed: int = 1):
    """Every new parameter away from its start, where streams differ."""
    generator = torch.Generator().manual_seed(seed)
    for p in gm.hyper_connections.parameters():
        p.data += 0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return gm


def gradients(gm, *inputs):
    gm.zero_grad()
    torch.manual_seed(2)
    sum(t.square().sum() for t in flat(gm(*inputs)) if t.is_floating_point()).backward()
    return {name: p.grad.clone() for name, p in gm.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("recompute", "expected"),
    [
        (None, [0] * 6),
        (1, [0] * 6),
        (2, [0, 1] * 3),
        (4, [0, 1, 2, 3, 0, 1]),
        (100, [0, 1, 2, 3, 4, 5]),
        ("auto", [0, 1] * 3),  # sqrt(4 * 6 / 6) = 2
    ],
)
def test_the_first_step_of_a_group_keeps_its_streams(recompute, expected):
    for connection in ("mhc", "mhc-single-pass"):
        gm, _ = rewritten(net(), X, recompute=recompute, connection=connection)
        assert pasts(gm) == expected


@pytest.mark.parametrize(("n", "sites", "size"), [(4, 24, 4), (4, 1, 1), (2, 24, 3), (8, 96, 9), (4, 96, 8)])
def test_auto_is_the_formula_of_the_paper(n, sites, size):
    assert Config(n=n, recompute="auto").group_size(sites) == size


@pytest.mark.parametrize("recompute", [0, -1, True, 2.0, "sometimes"])
def test_anything_else_is_refused(recompute):
    with pytest.raises(InvalidOptionError, match="recompute="):
        Config(recompute=recompute)


def test_an_operation_on_the_streams_ends_a_group():
    def body(m, x):
        x = x + m.f0(x)
        x = torch.nn.functional.dropout(x + m.f1(x), 0.5, m.training)
        x = x + m.f2(x)
        return x + m.f3(x)

    gm, _ = rewritten(net(body), X, recompute=10)
    assert pasts(gm) == [0, 1, 0, 1]


def test_streams_that_somebody_else_keeps_start_a_group():
    gm, _ = rewritten(net(lambda m, x: ((h := m.f1(g := x + m.f0(x)) + g) + m.f2(h), h + m.f3(h))), X, recompute=10)
    assert pasts(gm) == [0, 1, 0, 0]  # two sites read h, and the gate of one of them keeps it


def test_a_mean_in_the_middle_of_a_group_is_no_obstacle_and_a_learned_readout_is():
    def body(m, x):
        x = x + m.f0(x)
        h = x + m.f1(x)
        return h, (h := h + m.f2(h)) + m.f3(h)

    assert pasts(rewritten(net(body), X, recompute=10)[0]) == [0, 1, 2, 3]
    assert pasts(rewritten(net(body), X, recompute=10, reduce="learned")[0]) == [0, 1, 0, 1]


def test_checkpointed_bodies_are_left_out_and_the_plan_says_so():
    model, inputs = SHAPES["checkpointed whole"].make()
    plan = plan_of(model, *inputs, front_end="dynamo", recompute=4)
    assert any("in checkpointed blocks" in note for note in plan.notes)


@pytest.mark.parametrize("connection", ["hc-static", "residual"])
def test_where_nothing_can_be_restored_the_plan_says_so(connection):
    assert [f"connection='{connection}'" in n for n in plan_of(net(), X, connection=connection, recompute=2).notes] == [
        True
    ]
    assert plan_of(net(), X, recompute=2).notes == ()


def test_a_norm_on_the_streams_behind_every_site_leaves_nothing_to_restore_and_the_plan_says_so():
    def body(m, x):
        for i in range(6):
            x = m.n(x + m.get_submodule(f"f{i}")(x))
        return x

    (note,) = plan_of(net(body), X, recompute="auto").notes
    assert note.startswith("recompute has no effect: no site follows another")
    gm, _ = rewritten(net(body), X, recompute="auto")
    assert not any(pasts(gm))


def test_segments_too_short_for_a_group_are_named():
    (note,) = plan_of(net(lambda m, x: chain_of(m, x, 2)), X, recompute="auto").notes
    assert note == "recompute='auto' has no effect: segments this short make groups of one site"


# For "hc-static" nothing is restored; one and eight streams make groups of another length.
STREAMS = [
    (2, "mhc"),
    (4, "mhc"),
    (4, "mhc-single-pass"),
    (4, "hc"),
    *also((4, "mhc-lite"), (1, "mhc"), (8, "mhc"), (2, "hc-static")),
]


@pytest.mark.parametrize(("n", "connection"), STREAMS)
def test_every_parameter_gets_the_gradient_it_had(n, connection):
    found, expected = (
        gradients(moved(rewritten(net(), X, n=n, connection=connection, recompute=r)[0]), X) for r in ("auto", None)
    )
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


RESTORING = (
    *("pre-norm", "parallel", "in place", "checkpointed", "shared layers", "convnext", "norm in the branch"),
    *("scaled branch", "drop path", "wide residual", "add in another module", "through a tuple", "long skip"),
    *("token shift", "cross-attention", "mixture of experts"),
)
"""Shapes with groups of more than one site; in the others nothing is restored."""


@pytest.mark.parametrize("name", [*RESTORING, *also(*(name for name in SHAPES if name not in RESTORING))])
def test_every_shape_of_residual_connection_keeps_its_gradients(name):
    results = []
    for recompute in (3, None):
        gm, model, inputs = captured(name)
        gm, plan = passed(gm, model, recompute=recompute)
        if not plan.sites:
            return
        assert any(pasts(gm)) == (recompute is not None and name in RESTORING)
        results.append(gradients(moved(gm), *inputs))
    found, expected = results
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-12, atol=1e-12 * float(value.abs().max()))
