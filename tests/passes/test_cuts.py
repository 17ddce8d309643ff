"""What may be cut off a branch or a skip, and what ends a chain: streams of the model's own, an operator that mixes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.passes.graphs import found, reasons
from tests.passes.layers import mlps

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


def test_a_chain_that_ends_names_the_operator():
    body = lambda m, x: (u := (x + m.f0(x)) @ torch.eye(8, dtype=x.dtype)) + m.f1(u)
    _, plan = found(body, **mlps(2))
    assert [s.behind for s in plan.segments] == ["", "matmul"] and "behind matmul" in str(plan)
