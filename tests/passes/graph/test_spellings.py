"""Residuals without a plus: each spelling is a site or a rejected add, and computes what it did."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mhc_compile.passes.plan.reasons import Reason
from tests.passes.graphs import plan_of, preserved, reasons, trained
from tests.passes.layers import Net, Net2, mlps, tokens, vector

X = tokens()
ROWS = torch.arange(6)


def _written_list(y, x):
    torch._foreach_add_([y], [x])
    return y


SITES = {
    "lerp of a number": lambda m, x: torch.lerp(x, m.f0(x), 0.3),
    "lerp from the branch": lambda m, x: torch.lerp(m.f0(x), x, 0.3),
    "lerp from the branch by a learned weight": lambda m, x: m.f0(x).lerp(x, m.g),
    "a skip that is negated twice": lambda m, x: m.f0(x) - (-x),
    "a skip that is negated twice, by name": lambda m, x: torch.sub(m.f0(x), x.neg()),
    "lerp method": lambda m, x: x.lerp(m.f0(x), m.g),
    "lerp keywords": lambda m, x: torch.lerp(input=x, end=m.f0(x), weight=0.7),
    "stack and sum": lambda m, x: torch.stack([x, m.f0(x)]).sum(0),
    "stack and sum, last axis": lambda m, x: torch.stack((m.f0(x), x), dim=-1).sum(dim=-1),
    "stack of three": lambda m, x: torch.stack([x, m.f0(x), m.f1(x)], 1).sum(1),
    "stack and mean": lambda m, x: torch.mean(torch.stack([x, m.f0(x)]), dim=0),
    "einsum over a stack": lambda m, x: torch.einsum("kbtc->btc", torch.stack([x, m.f0(x)])),
    "einsum with weights": lambda m, x: torch.einsum("k,kbtc->btc", m.pair, torch.stack([x, m.f0(x)])),
    "einsum with dots": lambda m, x: torch.einsum("k...,k->...", torch.stack([x, m.f0(x)]), m.pair),
    "einsum with dots in front": lambda m, x: torch.einsum("...k->...", torch.stack([x, m.f0(x)], -1)),
    "stack and sum, axis kept": lambda m, x: torch.stack([x, m.f0(x)]).sum(0, keepdim=True)[0],
    "stack and mean, axis kept": lambda m, x: torch.stack([x, m.f0(x)], 2).mean(2, keepdim=True).squeeze(2),
    "put together": lambda m, x: torch.cat([x[None], m.f0(x)[None]]).sum(0),
    "put together at the end": lambda m, x: torch.cat([x.unsqueeze(-1), m.f0(x)[..., None]], dim=-1).sum(-1),
    "stack with weights": lambda m, x: (m.pair.softmax(0)[:, None, None, None] * torch.stack([x, m.f0(x)])).sum(0),
    "stack with weights behind": lambda m, x: (torch.stack([x, m.f0(x)], -1) * m.pair).sum(-1),
    "stack with a weight for each channel": lambda m, x: (torch.stack([x, m.f0(x)], 2) * m.rows).mean(2),
    "tensordot": lambda m, x: torch.tensordot(m.pair, torch.stack([x, m.f0(x)]), dims=1),
    "tensordot of axes": lambda m, x: torch.tensordot(torch.stack([x, m.f0(x)], 1), m.pair, dims=([1], [0])),
    "matmul with a vector": lambda m, x: torch.stack([x, m.f0(x)], -1) @ m.pair,
    "addcmul with value": lambda m, x: torch.addcmul(x, m.f0(x), m.g, value=0.5),
    "addcdiv": lambda m, x: torch.addcdiv(x, m.f0(x), m.g, value=2.0),
    "addcdiv method": lambda m, x: x.addcdiv(m.f0(x), m.g),
    "baddbmm scaled": lambda m, x: torch.baddbmm(x, m.f0(x), m.square, beta=0.5, alpha=2.0),
    "index_add": lambda m, x: x.index_add(1, ROWS, m.f0(x)),
    "index_add scaled": lambda m, x: torch.index_add(x, 1, ROWS, m.f0(x), alpha=0.5),
    "scatter_add": lambda m, x: x.scatter_add(1, ROWS[None, :, None].expand(2, 6, 8), m.f0(x)),
    "scatter_reduce": lambda m, x: x.scatter_reduce(1, ROWS[None, :, None].expand(2, 6, 8), m.f0(x), "sum"),
    "index_put": lambda m, x: x.index_put((torch.zeros(1, dtype=torch.long),), m.f0(x)[:1], accumulate=True),
    "concatenated, then seen as a stack": lambda m, x: torch.cat([x, m.f0(x)]).view(2, 2, 6, 8).sum(0),
    "the same along another axis": lambda m, x: torch.cat([x, m.f0(x)], 1).reshape(2, 2, 6, 8).sum(1),
    "the same at the end": lambda m, x: torch.cat([x, m.f0(x)], dim=-1).unflatten(-1, (2, 8)).mean(-2),
    "vstack": lambda m, x: torch.vstack([x, m.f0(x)]).unflatten(0, (2, 2)).sum(0),
    "hstack": lambda m, x: torch.hstack([x, m.f0(x)]).unflatten(1, (2, 6)).sum(1),
    "a stack whose axis is moved": lambda m, x: torch.stack([x, m.f0(x)]).permute(1, 2, 3, 0).contiguous().sum(-1),
    "stack and sum in its dtype": lambda m, x: torch.stack([x, m.f0(x)]).sum(0, dtype=torch.float64),
    "stack and sum in a wider dtype": lambda m, x: torch.stack([x.float(), m.f0(x).float()]).sum(0, dtype=x.dtype),
    "lists": lambda m, x: torch._foreach_add([x], [m.f0(x)])[0],
    "lists with a factor": lambda m, x: torch._foreach_sub([x, x], [m.f0(x), m.f0(x)], alpha=2)[1],
    "lists that are written to": lambda m, x: _written_list(m.f0(x), x),
    "rsub": lambda m, x: torch.rsub(m.f0(x), x),
}


def net(body, kind=Net):
    torch.manual_seed(0)
    layers = {
        "g": vector(),
        "pair": nn.Parameter(torch.rand(2)),
        "rows": nn.Parameter(torch.rand(2, 8)),
        "square": nn.Parameter(torch.randn(2, 8, 8)),
    }
    return kind(body, **layers, **mlps(3)).double()


@pytest.mark.parametrize("name", SITES)
def test_a_residual_without_a_plus_is_a_site(name):
    error, plan = preserved(net(lambda m, x: (u := SITES[name](m, x)) + m.f2(u)), X)
    assert len(plan.sites) == 2 and len(plan.segments) == 1 and error < 1e-12
    assert sum(len(part.adds) for part in (*plan.sites, *plan.rejected)) == plan.float_adds


@pytest.mark.parametrize("name", ["lerp from the branch", "lerp from the branch by a learned weight"])
def test_an_interpolation_has_its_end_for_a_skip_where_that_is_older(name):
    error, plan = trained(net(lambda m, x: (u := SITES[name](m, x)) + m.f2(u)), X)
    assert error < 1e-12 and plan.segments[0].entry == "x"
    assert reasons(plan) == ["NEGATED_SKIP"]  # the difference inside


@pytest.mark.parametrize("front_end", ["dynamo", "export"])
def test_the_other_front_ends_read_them_alike(front_end):
    body = lambda m, x: torch.stack([u := torch.lerp(x, m.f0(x), 0.3), m.f1(u)]).sum(0)
    assert len(plan_of(net(body), X, front_end=front_end).sites) == 2


LOOK_ALIKES = {
    "running sum": (lambda m, x: m.f0(x).cumsum(1), [Reason.ALONG_AXIS]),
    "outer product": (lambda m, x: m.f0(torch.addr(x[0], x[0, :, 0], x[0, 0])), [Reason.ALONG_AXIS]),
    "complex numbers": (lambda m, x: (torch.complex(x, x) + torch.complex(m.f0(x), x)).real, [Reason.COMPLEX]),
    "sum of a tensor that was stacked for another purpose":
        (lambda m, x: (s := torch.stack([x, m.f0(x)])).sum(0) * s[0], [Reason.ALONG_AXIS]),
    "sum of many that were stacked":
        (lambda m, x: torch.stack([x] + [m.f0(x)] * 16).sum(0), [Reason.ALONG_AXIS]),
    "weighted sum of many that were stacked":
        (lambda m, x: torch.einsum("kbtc->btc", torch.stack([x] + [m.f0(x)] * 16)), [Reason.ALONG_AXIS]),
    "mean over what is stacked and a second axis":
        (lambda m, x: torch.stack([x, m.f0(x)]).mean((0, 2))[:, None].expand(2, 6, 8), [Reason.ALONG_AXIS]),
    "mean of a stack without the missing":
        (lambda m, x: torch.stack([x, m.f0(x)]).nanmean(0), [Reason.ALONG_AXIS]),
    "sum of a stack whose other axes change places":
        (lambda m, x: torch.stack([x, m.f0(x)]).permute(1, 3, 2, 0).sum(-1), [Reason.ALONG_AXIS]),
    "sum of a stack that is detached":
        (lambda m, x: torch.stack([x, m.f0(x)]).detach().sum(0) * x, [Reason.ALONG_AXIS]),
    "sum of a stack that is rounded":
        (lambda m, x: torch.stack([x, m.f0(x)]).half().double().sum(0), [Reason.ALONG_AXIS]),
    "sum over another axis behind a view": (lambda m, x: torch.cat([x, m.f0(x)]).view(2, 2, 6, 8).sum(1), []),
    "sum without the missing": (lambda m, x: torch.stack([x, m.f0(x)]).nansum(0), [Reason.RESHAPED_SKIP]),
    "mean of what is scattered":
        (lambda m, x: x.index_reduce(1, ROWS, m.f0(x), "mean"), [Reason.ALONG_AXIS]),
    "mean of what is scattered, elementwise":
        (lambda m, x: x.scatter_reduce(1, ROWS[None, :, None].expand(2, 6, 8), m.f0(x), reduce="mean"),
         [Reason.ALONG_AXIS]),
    "a maximum of what is scattered": (lambda m, x: x.index_reduce(1, ROWS, m.f0(x), "amax"), []),
    "vectors": (lambda m, x: (x[0, 0] + m.f0(x[0, 0])).expand(2, 6, 8), [Reason.VECTOR]),
    "product with a matrix behind a stack": (lambda m, x: torch.stack([x, m.f0(x)], -1) @ m.rows, []),
    "sum over parts that were picked": (lambda m, x: torch.cat([x[:1], m.f0(x)[:1]]).sum(0).expand(2, 6, 8), []),
    "sum over another axis": (lambda m, x: torch.stack([x, m.f0(x)]).sum(1), []),
    "expert outputs put together from nothing":
        (lambda m, x: torch.zeros_like(x).index_add(1, ROWS, m.f0(x)).index_add(1, ROWS, m.f1(x)), []),
    "a write without a sum": (lambda m, x: x.scatter(1, ROWS[None, :, None].expand(2, 6, 8), m.f0(x)), []),
    "two projections":
        (lambda m, x: torch.lerp(m.f0(x), m.f1(x), 0.5), [Reason.PROJECTED_SHORTCUT, Reason.NO_WEIGHT]),
}  # fmt: skip


@pytest.mark.parametrize("name", LOOK_ALIKES)
def test_what_only_looks_like_one_is_no_site(name):
    body, expected = LOOK_ALIKES[name]
    error, plan = preserved(net(body), X)
    assert not plan.sites and error < 1e-12
    assert [r.reason for r in plan.rejected] == expected
    assert sum(len(part.adds) for part in plan.rejected) == plan.float_adds


def test_an_interpolation_by_a_mask_is_a_merge():
    plan = plan_of(net(lambda m, x, y: torch.lerp(x, m.f0(x), (y > 0).to(x.dtype)), Net2), X, X.clone())
    assert not plan.sites and Reason.MERGE.name in reasons(plan)
