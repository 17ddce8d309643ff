"""Which axis of a site holds the channels, in code that nobody prepared.

Every site is also checked against the oracle, with new parameters that noise has moved: the start hides most faults.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mhc_compile.passes.plan.reasons import Reason
from tests.moved import move
from tests.passes.graphs import found
from tests.passes.layers import Mlp, Net, images, tokens, vector

PICTURES = tokens(2, 8, 5, 4)


AXES = {
    "a mean over the channels, then a convolution": lambda m, x: m.c(x - x.mean(1, keepdim=True)),
    "a norm by hand": lambda m, x: m.c((x - x.mean(1, True)) / (x.var(1, keepdim=True) + 1e-5).sqrt()),
    "a response norm": lambda m, x: m.c(F.local_response_norm(x, 3)),
    "squeeze-excite first": lambda m, x: m.c(x * torch.sigmoid(m.l(x.mean((2, 3))))[:, :, None, None]),
    "attention over pixels first":
        lambda m, x: m.c(x * F.softmax(x.mean(1, keepdim=True).flatten(2), -1).view(2, 1, 5, 4)),
    "a contraction written as an einsum": lambda m, x: torch.einsum("bchw,cd->bdhw", x, m.w),
    "the weight first in the einsum": lambda m, x: torch.einsum("dc, bchw -> bdhw", m.w, x),
    "dots in the einsum": lambda m, x: torch.einsum("dc,bc...->bd...", m.w, x),
    "dots that are moved": lambda m, x: torch.einsum("bc...,cd->b...d", x, m.w).movedim(-1, 1),
    "an einsum without an arrow": lambda m, x: torch.einsum("bahw,ac", x, m.w),
    "a tensordot": lambda m, x: torch.tensordot(x, m.w, dims=([1], [0])).movedim(-1, 1),
    "a tensordot with the weight first": lambda m, x: torch.tensordot(m.w, x, dims=([1], [1])).transpose(0, 1),
    "a tensordot of the last axes": lambda m, x: torch.tensordot(x.movedim(1, -1), m.w, dims=1).movedim(-1, 1),
    "a product with the weight on the left": lambda m, x: (m.w @ x.flatten(2)).view(2, 8, 5, 4),
    "a learned scale alone": lambda m, x: m.g[:, None, None] * F.avg_pool2d(x, 3, 1, 1),
    "attention over channels from a pooling":
        lambda m, x: x * torch.sigmoid(m.e(F.adaptive_avg_pool2d(x, 1).squeeze(-1).mT)).mT[..., None],
    "windows side by side": lambda m, x: F.fold(torch.einsum("oc,bcl->bol", m.u, F.unfold(x, 3, padding=1)), (5, 4), 1),
    "a scale along another axis": lambda m, x: m.k(x * m.p),
    "a norm along another axis": lambda m, x: m.k(F.layer_norm(x, (4,), m.p, m.p)),
    "what the branch makes, behind a view that hides what it reads":
        lambda m, x: m.c(x.reshape(2, 8, 2, 10).permute(0, 3, 1, 2).reshape(2, 8, 5, 4)),
}  # fmt: skip


@pytest.mark.parametrize("name", AXES)
def test_the_channels_are_what_the_branch_contracts_or_scales(name):
    layers = {"c": nn.Conv2d(8, 8, 1), "l": nn.Linear(8, 8), "w": nn.Parameter(torch.randn(8, 8)), "g": vector(),
              "e": nn.Conv1d(1, 1, 3, padding=1), "u": nn.Parameter(torch.randn(8, 72)), "p": vector(4),
              "k": nn.Conv2d(8, 8, 3, padding=1)}  # fmt: skip
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


def test_a_picture_of_another_size_is_taken_where_the_plain_model_takes_one():
    from mhc_compile import transform

    body = lambda m, x: (u := x + m.c0(x - x.mean(1, True))) + m.c1(u - u.mean(1, True))
    model = Net(body, c0=nn.Conv2d(8, 8, 1), c1=nn.Conv2d(8, 8, 1)).double()
    new = transform(model, n=4, example_inputs=(images(),))
    other = tokens(2, 8, 6, 5)
    assert torch.allclose(new(other), model(other), rtol=1e-9, atol=1e-9)
    there = transform(model, n=4, example_inputs=(other,))
    there.load_state_dict(move(new).state_dict())
    assert torch.allclose(new(other), there(other), rtol=1e-9, atol=1e-9)
    assert not torch.allclose(new(other), model(other), rtol=1e-3)
