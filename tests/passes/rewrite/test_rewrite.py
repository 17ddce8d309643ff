"""The rewritten graph: its calls of kernels, the function it keeps, and its new parameters."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mhc_compile.kernels.operators import streams
from tests.passes.graphs import error, preserved, rewritten
from tests.passes.layers import Net2, conv, images, mlps, tokens, vector
from tests.passes.rewrite.bodies import BODIES, SITES, TIGHT, TRACED, X, chain, net
from tests.tables import also


def roles(gm):
    """`(target, key of its site)` of every call of a kernel."""
    kernels = {f for f in vars(streams).values() if callable(f)}
    return [(n.target.__name__, n.meta.get("mhc", {}).get("site")) for n in gm.graph.nodes if n.target in kernels]


def test_a_chain_becomes_entry_then_streams_then_a_readout():
    gm, _ = rewritten(net(chain), X, connection="hc-static")
    assert roles(gm) == [
        ("entry_coefficients", "f0"), ("entry_read", "f0"), ("entry_write", "f0"),
        ("coefficients", "f1"), ("read", "f1"), ("write", "f1"), ("reduce", None),
    ]  # fmt: skip


def test_the_original_adds_are_gone_and_nodes_carry_their_place():
    gm, plan = rewritten(net(chain), X, front_end="dynamo", connection="hc-static")
    names = {n.name for n in gm.graph.nodes}
    assert not names & {add for s in plan.sites for add in s.adds}
    write = next(n for n in gm.graph.nodes if n.target is streams.write)
    assert write.meta["mhc"] == {"site": "f1", "role": "write"} and "stack_trace" in write.meta
    assert write.name == "f1_streams"


@pytest.mark.parametrize(
    ("name", "front_end"),
    [
        *((name, "symbolic") for name in BODIES),
        *((name, "dynamo") for name in TRACED),
        *also(*((name, "dynamo") for name in BODIES if name not in TRACED)),
    ],
)
def test_function_is_preserved(name, front_end):
    model = net(BODIES[name], g=vector(), heads=nn.Parameter(torch.rand(4)))
    err, plan = preserved(model, X, front_end=front_end)
    assert err <= TIGHT and len(plan.sites) == SITES.get(name, 2)


# Eight streams are as two, with kernels of their own, which `tests/kernels` compiles.
@pytest.mark.usefixtures("without_kernels")
@pytest.mark.parametrize("options", [{"n": 2}, {"connection": "hc"}, {"reduce": "learned"}, {"n": 1}, *also({"n": 8})])
@pytest.mark.parametrize("name", ["collected", "towers", "branch reads both", "moved skip", "rms on the path"])
def test_function_is_preserved_under_other_options(name, options):
    assert preserved(net(BODIES[name], g=vector()), X, **options)[0] <= TIGHT


def _pictures(op):
    def body(m, x):
        x = op(m, x + m.c0(x))
        return op(m, x + m.c1(x))

    return body


@pytest.mark.parametrize(("op", "segments"), [
    (lambda m, x: m.group(x), 1), (lambda m, x: m.drop(x), 1), (lambda m, x: torch.relu(x), 1),
    (lambda m, x: m.n(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), 1), (lambda m, x: m.bn(x), 2),
    (lambda m, x: x.contiguous(memory_format=torch.channels_last), 1), (lambda m, x: nn.functional.avg_pool2d(x, 1), 2),
])  # fmt: skip
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_ops_between_sites_of_pictures(op, segments, layout):
    layers = {
        "c0": conv(),
        "c1": conv(),
        "group": nn.GroupNorm(2, 8),
        "drop": nn.Dropout2d(0.5),
        "bn": nn.BatchNorm2d(8),
    }
    model = net(_pictures(op), **layers)
    x = images().contiguous(memory_format=layout)
    err, plan = preserved(model, x)
    assert err <= TIGHT and len(plan.sites) == 2 and len(plan.segments) == segments


@pytest.mark.parametrize("reduce", ["learned", "mean"])
def test_pictures_are_read_out_with_their_channels_in_front(reduce):
    model = net(_pictures(lambda m, x: torch.relu(x)), c0=conv(), c1=conv())
    err, plan = preserved(model, images(), reduce=reduce)
    assert err <= TIGHT and [r.channel_axis for s in plan.segments for r in s.readouts] == [1]


def test_channels_first_and_last_parts_in_one_stream():
    def body(m, x):
        x = x + m.c0(x)
        x = x.permute(0, 2, 3, 1)
        x = x + m.f0(x)
        x = x.permute(0, 3, 1, 2)
        return x + m.c1(x)

    err, plan = preserved(net(body, c0=conv(), c1=conv()), images())
    assert err <= TIGHT and len(plan.segments) == 1
    assert [s.channel_axis for s in plan.sites] == [1, 3, 1]


@pytest.mark.parametrize("shape", [(5, 8), (2, 3, 8), (2, 2, 3, 8), (1, 1, 8)])
def test_any_number_of_token_axes(shape):
    err, plan = preserved(net(chain), tokens(*shape))
    assert err <= TIGHT and len(plan.sites) == 2


def test_masks_on_the_stream():
    def body(m, x, y):
        mask = y[..., :1] > 0
        x = (x + m.f0(x)) * mask
        x = (x + m.f1(x)).masked_fill(~mask, 0.0)
        return x + m.f2(x)

    model = Net2(body, **mlps(3)).double()
    err, plan = preserved(model, X, X.flip(1))
    assert err <= TIGHT and len(plan.sites) == 3 and len(plan.segments) == 1


def test_tied_weights_stay_tied():
    model = net(chain)
    model.f1[0].weight = model.f0[0].weight
    gm, plan = rewritten(model, X, front_end="dynamo")
    with torch.no_grad():
        model.f0[0].weight.mul_(2)
    assert len(plan.sites) == 2 and error(gm(X), model(X)) <= TIGHT


@pytest.mark.parametrize("options", [{"exclude": "f1"}, {"include": "f1"}, {"min_sites": 2}, {"nested": "outer"}])
def test_sites_left_out_are_still_computed(options):
    def body(m, x):
        x = torch.softmax(x + m.f0(x), -1)
        x = x + m.f1(x)
        return x + m.f2(x)

    assert preserved(net(body), X, **options)[0] <= TIGHT


@pytest.mark.parametrize("nested", ["longest", "outer", "inner"])
def test_function_is_preserved_whichever_level_of_nested_sites_is_taken(nested):
    body = lambda m, x: (u := x + m.f3((v := x + m.f0(x)) + m.f1(v))) + m.f2(u)
    assert preserved(net(body), X, nested=nested)[0] <= TIGHT


def test_every_new_parameter_gets_a_gradient_within_two_steps():
    gm, _ = rewritten(net(chain), X)
    new = dict(gm.hyper_connections.named_parameters())
    alive = set()
    optimizer = torch.optim.SGD(new.values(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        gm(X).sin().square().mean().backward()
        alive |= {name for name, p in new.items() if p.grad is not None and p.grad.abs().max() > 0}
        optimizer.step()
    assert alive == set(new)


def test_parameters_change_the_function():
    """The streams are really there: without this, a rewrite that changes nothing would pass every test above."""
    model = net(chain)
    gm, _ = rewritten(model, X)
    with torch.no_grad():
        for name, parameter in gm.hyper_connections.named_parameters():
            if name.endswith("bias"):
                parameter += 0.3 * torch.randn_like(parameter)
    assert error(gm(X), model(X)) > 1e-3
