"""Code that nobody prepared: kinds of models that were read wrongly, several members of each, and what they are not.

Every site is also checked against the oracle, with new parameters that noise has moved: the start hides most faults.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mhc_compile.errors import PatternError
from mhc_compile.passes.plan import Reason
from tests.passes.graphs import found, plan_of, reasons
from tests.passes.layers import Mlp, Net, Net2, images, mlps, tokens, vector

X, PICTURES = tokens(), tokens(2, 8, 5, 4)


# --- which axis holds the channels --------------------------------------------------------------------------------

AXES = {
    "a mean over the channels, then a convolution": lambda m, x: m.c(x - x.mean(1, keepdim=True)),
    "a norm by hand": lambda m, x: m.c((x - x.mean(1, True)) / (x.var(1, keepdim=True) + 1e-5).sqrt()),
    "a response norm": lambda m, x: m.c(F.local_response_norm(x, 3)),
    "squeeze-excite first": lambda m, x: m.c(x * torch.sigmoid(m.l(x.mean((2, 3))))[:, :, None, None]),
    "attention over pixels first":
        lambda m, x: m.c(x * F.softmax(x.mean(1, keepdim=True).flatten(2), -1).view(2, 1, 5, 4)),
    "a contraction written as an einsum": lambda m, x: torch.einsum("bchw,cd->bdhw", x, m.w),
    "the weight first in the einsum": lambda m, x: torch.einsum("dc, bchw -> bdhw", m.w, x),
    "a product with the weight on the left": lambda m, x: (m.w @ x.flatten(2)).view(2, 8, 5, 4),
    "a learned scale alone": lambda m, x: m.g[:, None, None] * F.avg_pool2d(x, 3, 1, 1),
    "what the branch makes, behind a view that hides what it reads":
        lambda m, x: m.c(x.reshape(2, 8, 2, 10).permute(0, 3, 1, 2).reshape(2, 8, 5, 4)),
}  # fmt: skip


@pytest.mark.parametrize("name", AXES)
def test_the_channels_are_what_the_branch_contracts_or_scales(name):
    layers = {"c": nn.Conv2d(8, 8, 1), "l": nn.Linear(8, 8), "w": nn.Parameter(torch.randn(8, 8)), "g": vector()}
    _, plan = found(lambda m, x: x + AXES[name](m, x), PICTURES, **layers)
    assert [(s.channel_axis, s.channels) for s in plan.sites] == [(1, 8)]


def test_channels_last_are_seen_too():
    body = lambda m, x: x + m.f(m.n(x - x.mean((1, 2), keepdim=True)))
    _, plan = found(body, tokens(2, 5, 4, 8), f=Mlp(), n=nn.LayerNorm(8))
    assert [(s.channel_axis, s.channels) for s in plan.sites] == [(3, 8)]


def test_a_token_mixer_with_a_norm_says_what_the_norm_says():
    _, plan = found(lambda m, x: x + m.t(m.n(x).transpose(1, 2)).transpose(1, 2), n=nn.LayerNorm(8), t=nn.Linear(6, 6))
    assert [(s.channel_axis, s.channels) for s in plan.sites] == [(2, 8)]


def test_operators_that_disagree_make_no_site_and_are_named():
    body = lambda m, x: x + m.l(m.c(x))
    _, plan = found(body, PICTURES, c=nn.Conv2d(8, 8, 1), l=nn.Linear(4, 4))
    assert not plan.sites and plan.rejected[0].reason is Reason.UNKNOWN_CHANNELS
    assert plan.rejected[0].detail == "c shows axis 1 but l shows axis 3"


# --- random operators ---------------------------------------------------------------------------------------------

NOISES = {
    "dropout": lambda m, x: F.dropout(x, 0.5, m.training),
    "dropout of whole tokens": lambda m, x: F.dropout1d(x, 0.5, m.training),
    "noise": lambda m, x: x + torch.randn_like(x),
    "noise that multiplies": lambda m, x: x * (1 + 0.1 * torch.rand_like(x)),
    "dropped samples": lambda m, x: x * x.new_empty(x.shape[0], 1, 1).bernoulli_(0.5),
}


@pytest.mark.parametrize("name", NOISES)
def test_what_is_drawn_on_the_stream_is_drawn_once_and_as_in_the_plain_model(name):
    from mhc_compile import transform

    def body(m, x):
        for f in (m.f0, m.f1, m.f2):
            x = NOISES[name](m, x + f(x))
        return x

    model = Net(body, **mlps(3)).double().train()
    new = transform(model, n=4, example_inputs=(X,), modes="train")
    assert len(new.mhc_plan.segments) == 1
    torch.manual_seed(3)
    expected = model(X)
    torch.manual_seed(3)
    assert torch.allclose(new(X), expected, rtol=1e-9, atol=1e-9)


# --- only data makes a residual -----------------------------------------------------------------------------------

WEIGHTS = {
    "a weight made of two": lambda m, x: x @ (m.w + m.a @ m.b @ m.w),
    "a residual network that makes a weight": lambda m, x: x @ ((e := m.w * 1.0) + m.f0(e)),
    "an orthogonal weight": lambda m, x: (
        x @ (torch.eye(8, dtype=x.dtype) + m.w @ (m.w.T @ torch.eye(8, dtype=x.dtype)))
    ),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_sum_of_weights_is_no_residual(name):
    square = {key: nn.Parameter(torch.randn(8, 8)) for key in "wab"}
    (sites, _), _ = found(WEIGHTS[name], **square, **mlps(1))
    assert not sites


def test_a_stream_of_learned_queries_begins_before_the_data():
    def body(m, x):
        h = m.q * 1.0
        h = m.n(h + m.f0(h))
        return h + m.f1(h) * x

    (sites, segments), _ = found(body, q=nn.Parameter(torch.randn(2, 6, 8)), n=nn.LayerNorm(8), **mlps(2))
    assert (sites, segments) == (2, 1)


@pytest.mark.parametrize("op", [
    lambda m, x: torch.linalg.solve(m.w, x.transpose(1, 2)).transpose(1, 2), lambda m, x: torch.cdist(x, m.w),
    lambda m, x: torch.atan2(x, m.w[:6]),
])  # fmt: skip
def test_an_unknown_operator_is_no_learnable_map(op):
    (sites, _), plan = found(lambda m, x: x + op(m, x), w=nn.Parameter(torch.randn(8, 8)))
    assert not sites and reasons(plan) == ["NO_WEIGHT"]


# --- the right level ----------------------------------------------------------------------------------------------

INJECTIONS = {
    "scaled": lambda m, x, x0, i: m.s[i, 0] * x + m.s[i, 1] * x0,
    "as it is": lambda m, x, x0, i: x + x0,
    "normalised behind": lambda m, x, x0, i: m.n(x + 0.5 * x0),
    "through a layer": lambda m, x, x0, i: x + m.f3(x0),
    "looked up": lambda m, x, x0, i: x + m.table[i],
}


@pytest.mark.parametrize("name", INJECTIONS)
def test_a_value_injected_before_every_block_costs_no_site(name):
    def body(m, x):
        x0 = x = m.stem(x)
        for i, f in enumerate((m.f0, m.f1, m.f2)):
            x = x + f(x)
            x = INJECTIONS[name](m, x, x0, i)
        return x

    layers = {"s": nn.Parameter(torch.rand(3, 2)), "n": nn.LayerNorm(8), "stem": nn.Linear(8, 8),
              "table": nn.Parameter(torch.randn(3, 6, 8))}  # fmt: skip
    counts, plan = found(body, **layers, **mlps(4))
    assert counts == (3, 1)
    assert ("INJECTED" in reasons(plan)) == (name in ("scaled", "as it is", "normalised behind"))


def test_a_value_that_comes_back_once_is_a_long_skip():
    body = lambda m, x: m.f2((x + m.f0(x)) + x) + x
    assert "INJECTED" not in reasons(found(body, **mlps(3))[1])


MERGES = {
    "by a product": lambda h, h0, m: m * h + (1 - m) * h0,
    "the other way round": lambda h, h0, m: h0 * (1.0 - m) + h * m,
    "by a negated mask": lambda h, h0, m: h * (m > 0).to(h.dtype) + h0 * (~(m > 0)).to(h.dtype),
    "by products of masks": lambda h, h0, m: (((m > -1) * m) * h) + (((m > -1) * (1 - m)) * h0),
    "by an interpolation": lambda h, h0, m: torch.lerp(h0, h, m),
    "by a choice": lambda h, h0, m: torch.where(m > 0.5, h, h0),
}


@pytest.mark.parametrize("name", MERGES)
def test_a_merge_by_a_mask_is_no_residual_and_displaces_none(name):
    def body(m, x, y):
        h0 = x
        for f in (m.f0, m.f1, m.f2):
            x = x + f(x)
        x = MERGES[name](x, h0, y[..., :1])
        return x + m.f3(x)

    counts, plan = found(body, X, (X > 0).double(), kind=Net2, **mlps(4))
    assert counts == (4, 1)
    assert ("MERGE" in reasons(plan)) == (name != "by a choice")


def test_a_learned_interpolation_is_a_residual():
    (sites, _), _ = found(lambda m, x: m.g * m.f0(x) + (1 - m.g) * x, g=vector(mean=0.5), **mlps(1))
    assert sites == 1


def _egnn(m, x, y):
    for f, g, up in ((m.f0, m.f1, m.u0), (m.f2, m.f3, m.u1), (m.f4, m.f5, m.u2)):
        x = x + f(m.join(torch.cat([x, y], -1)))
        x = m.n(x + g(x))
        y = y + up(x)
    return x, y


def _nodes_and_edges(m, x, y):
    """Both as wide as each other, each with an own part in what it reads."""
    for f, g, up in ((m.f0, m.f1, m.u0), (m.f2, m.f3, m.u1), (m.f4, m.f5, m.u2)):
        x = m.n(x + f(m.join(torch.cat([x, y], -1))))
        x = m.n(x + g(x))
        y = m.n(y + up(m.join(torch.cat([y, x], -1))))
    return x, y


@pytest.mark.parametrize(("body", "width"), [(_egnn, 3), (_egnn, 8), (_nodes_and_edges, 8)])
def test_two_towers_that_read_each_other_keep_their_sites(body, width):
    layers = {f"u{i}": nn.Linear(8, width) for i in range(3)}
    layers |= {"n": nn.LayerNorm(8), "join": nn.Linear(8 + width, 8), **mlps(6)}
    (sites, _), plan = found(body, X, tokens(2, 6, width), kind=Net2, **layers)
    assert sites == 9 and max(len(segment.sites) for segment in plan.segments) == 6


def _doubly_residual(m, x):
    """N-BEATS: what is explained is subtracted, and the parts of the forecast are added up beside it."""
    forecast = torch.zeros_like(x)
    for f in (m.f0, m.f1, m.f2):
        h = f(x)
        x = x - m.u0(h)
        forecast = forecast + m.u1(h)
    return forecast, x


def _runge_kutta(m, x):
    """Points in between are no streams of their own."""
    for f in (m.f0, m.f1, m.f2):
        k1 = f(x)
        k2 = f(x + 0.5 * k1)
        k3 = f(x + 0.5 * k2)
        x = x + (k1 + 2 * k2 + 2 * k3 + f(x + k3)) / 6
    return x


def _passed_along_edges(m, x):
    """ProteinMPNN: nodes with their edges, which are gathered from nodes and updated in turn."""
    neighbours = torch.tensor([[1, 2], [0, 3], [1, 4], [5, 2], [3, 0], [1, 2]])
    edges = m.f3(x[:, neighbours])
    for f, g, h in ((m.f0, m.f1, m.u0), (m.f2, m.f4, m.u1), (m.f5, m.f6, m.u2)):
        x = m.n(x + f(m.join(torch.cat([edges, x[:, neighbours]], -1))).sum(2))
        x = m.n(x + g(x))
        edges = m.n(edges + h(m.join(torch.cat([edges, x[:, neighbours]], -1))))
    return x, edges


@pytest.mark.parametrize(("body", "sites", "segments"), [
    (_doubly_residual, 3, 1), (_runge_kutta, 3, 1), (_passed_along_edges, 9, 2),
])  # fmt: skip
def test_the_level_of_other_networks(body, sites, segments):
    layers = {**{f"u{i}": nn.Linear(8, 8) for i in range(3)}, "n": nn.LayerNorm(8), "join": nn.Linear(16, 8)}
    assert found(body, **layers, **mlps(7))[0] == (sites, segments)


def _nested(m, x):
    for o, i, f in ((m.f0, m.f1, m.f2), (m.f3, m.f4, m.f5)):
        h = i(x)
        x = x + o(h + f(h))
    return x


def test_an_exclusion_gives_back_what_it_displaced():
    model = Net(_nested, **mlps(6)).double()
    outer = [s.key for s in plan_of(model, X).sites]
    assert len(outer) == 2
    inner = plan_of(model, X, exclude=tuple(outer))
    assert [s.key for s in inner.sites] == ["f2", "f5"]
    only = plan_of(model, X, include=("f2",))
    assert [s.key for s in only.sites] == ["f2"]
    none = plan_of(model, X, exclude=("f*",))
    assert not none.sites and reasons(none).count("EXCLUDED") == 4


def test_a_glob_that_matches_nothing_anywhere_is_an_error():
    with pytest.raises(PatternError, match="g\\*"):
        plan_of(Net(_nested, **mlps(6)).double(), X, exclude=("g*",))


# --- mixers, cuts, streams of the model's own ---------------------------------------------------------------------

MIXERS = {
    "Fourier": lambda m, x: torch.fft.fft2(x, dim=(1, 2)).real,
    "pooling": lambda m, x: F.avg_pool1d(x.transpose(1, 2), 3, 1, 1).transpose(1, 2) - x,
    "shift": lambda m, x: 0.5 * x.roll(1, 1),
    "attention without weights": lambda m, x: torch.softmax(x @ x.transpose(1, 2), -1) @ x,
}


@pytest.mark.parametrize("name", MIXERS)
def test_a_mixer_without_a_weight_is_a_site_among_sites_with_weights(name):
    def body(m, x):
        for f in (m.f0, m.f1):
            x = m.n(x + MIXERS[name](m, x))
            x = m.n(x + f(x))
        return x

    counts, plan = found(body, n=nn.LayerNorm(8), **mlps(2))
    assert counts == (4, 1)
    assert [s.key for s in plan.sites] == ["f0.mixer", "f0", "f1.mixer", "f1"]
    left = plan_of(Net(body, n=nn.LayerNorm(8), **mlps(2)).double(), X, exclude=("*.mixer",))
    assert [s.key for s in left.sites] == ["f0", "f1"] and reasons(left).count("NO_WEIGHT") >= 2


def test_a_filter_that_is_subtracted_from_the_stream_is_no_residual():
    def body(m, x):
        for f in (m.f0, m.f1):
            x = x + f(x)
            x = x - F.avg_pool1d(x.transpose(1, 2), 3, 1, 1).transpose(1, 2)  # the trend of a series
        return x

    counts, plan = found(body, **mlps(2))
    assert counts[0] == 2 and reasons(plan) == ["NO_WEIGHT"] * 2


@pytest.mark.parametrize("body", [
    lambda m, x: m.head((u := x + MIXERS["Fourier"](m, x)) + MIXERS["pooling"](m, u)),
    lambda m, x: m.head(x + torch.sin(x)),
    lambda m, x: (u := x + m.f0(x)) + m.f1(u + MIXERS["shift"](m, u)),
])  # fmt: skip
def test_a_mixer_alone_or_inside_a_branch_is_none(body):
    _, plan = found(body, head=nn.Linear(8, 8), **mlps(2))
    assert not any("mixer" in s.key for s in plan.sites)


CUTS = {
    "a causal convolution": lambda m, x: (x, m.pad(x.transpose(1, 2))[:, :, :-2].transpose(1, 2)),
    "prompts dropped again": lambda m, x: (x, m.f0(torch.cat([m.q, x], 1))[:, 2:]),
    "narrow": lambda m, x: (x, m.f0(F.pad(x, (0, 0, 2, 2))).narrow(1, 2, 6)),
    "a valid convolution": lambda m, x: (x[:, 1:-1], m.valid(x.transpose(1, 2)).transpose(1, 2)),
    "a skip cut by numbers": lambda m, x: (x.narrow(1, 0, 5), m.f0(x)[:, 1:]),
    "the first token": lambda m, x: (x[:, 0], m.f0(x)[:, 0]),
}


@pytest.mark.parametrize("name", CUTS)
def test_a_branch_may_cut_and_a_cut_skip_is_cut_in_every_stream(name):
    def body(m, x):
        x = x + m.f1(x)
        skip, branch = CUTS[name](m, x)
        x = skip + branch
        return x + m.f2(x)

    layers = {
        "pad": nn.Conv1d(8, 8, 3, padding=2),
        "valid": nn.Conv1d(8, 8, 3),
        "q": nn.Parameter(torch.randn(2, 2, 8)),
    }
    assert found(body, **layers, **mlps(3))[0] == (3, 1)


def test_a_skip_whose_channels_are_cut_is_none():
    (sites, _), plan = found(lambda m, x: x[..., :4] + m.f0(x)[..., :4], **mlps(1))
    assert not sites and plan.rejected[0].detail == "only some of the channels are left"


OWN_STREAMS = {
    "written by a product": lambda m, X, y, post: X + post.unsqueeze(-1) * y.unsqueeze(2),
    "written in a wider dtype": lambda m, X, y, post: (X.float() + (post[..., None] * y[:, :, None]).float()).double(),
    "written by an einsum": lambda m, X, y, post: X + torch.einsum("bsn,bsd->bsnd", post, y),
}


@pytest.mark.parametrize("name", OWN_STREAMS)
def test_streams_that_a_model_brings_along_are_left_alone(name):
    def body(m, x):
        streams = x.unsqueeze(2).expand(-1, -1, 4, -1).contiguous()
        for f in (m.f0, m.f1):
            pre, post = torch.sigmoid(m.gate(streams.flatten(2))).chunk(2, -1)
            y = f((pre.unsqueeze(-1) * streams).sum(2))
            streams = OWN_STREAMS[name](m, streams, y, post)
        return streams.mean(2)

    (sites, _), plan = found(body, gate=nn.Linear(32, 8), **mlps(2))
    assert not sites and reasons(plan).count("MULTI_STREAM") == 2


# --- gradients ----------------------------------------------------------------------------------------------------


def test_a_chain_that_ends_names_the_operator():
    body = lambda m, x: (u := (x + m.f0(x)) @ torch.eye(8, dtype=x.dtype)) + m.f1(u)
    _, plan = found(body, **mlps(2))
    assert [s.behind for s in plan.segments] == ["", "matmul"] and "behind matmul" in str(plan)


def test_a_picture_of_another_size_is_taken_where_the_plain_model_takes_one():
    from mhc_compile import transform

    body = lambda m, x: (u := x + m.c0(x - x.mean(1, True))) + m.c1(u - u.mean(1, True))
    model = Net(body, c0=nn.Conv2d(8, 8, 1), c1=nn.Conv2d(8, 8, 1)).double()
    new = transform(model, n=4, example_inputs=(images(),))
    other = tokens(2, 8, 6, 5)
    assert torch.allclose(new(other), model(other), rtol=1e-9, atol=1e-9)
