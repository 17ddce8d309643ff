"""Forward passes that a rewrite has to keep, one for each thing that may lie on the way of a stream."""

from __future__ import annotations

import torch
from torch import nn

from tests.passes.layers import BATCH, TOKENS, WIDTH, Net, mlps, tokens

X = tokens()


TIGHT = 1e-10


def net(body, **layers):
    torch.manual_seed(0)
    return Net(body, n=nn.LayerNorm(8), **mlps(4), **layers).double().eval()


def chain(m, x):
    x = x + m.f0(m.n(x))
    return x + m.f1(m.n(x))


def _collected(m, x):
    states = [x]
    for f in (m.f0, m.f1, m.f2):
        x = x + f(x)
        states.append(x)
    return m.n(x), states


def _towers(m, x):
    x = x + m.f0(x)
    return (a := x + m.f1(x)) + m.f3(a), (h := m.n(x)) + m.f2(h)


def _used_later(m, x):
    u = x + m.f0(x)
    v = u + m.f1(u)
    return v + m.f2(v * torch.sigmoid(u)), u.mean()


def _branch_reads_both(m, x):
    """The branch reads the base and what the skip is lifted to."""
    x = x + m.f0(x)
    u = x * 0.5
    return u + m.f1(x) * torch.sigmoid(u)


def _branch_reads_both_at_the_entry(m, x):
    u = x * 0.5
    return u + m.f1(x) * torch.sigmoid(u)


def _branch_reads_lifted(m, x):
    h = m.n(x + m.f0(x))
    return h + m.f1(h) + m.f2(h)


def _branch_is_output_too(m, x):
    u = x + m.f0(x)
    y = m.f1(u)
    return u + y, y


def _moved_skip(m, x):
    x = x + m.f0(x)
    x = x.transpose(1, 2) + m.f1(x).transpose(1, 2)
    x = x.transpose(1, 2)
    return x + m.f2(x)


def _flat_skip(m, x):
    x = x + m.f0(x)
    x = x.view(-1, 8) + m.f1(x).view(-1, 8)
    return x.view(BATCH, TOKENS, WIDTH) * 2.0


def _views_on_the_path(m, x):
    x = x + m.f0(x)
    x = x.view(BATCH, TOKENS, 2, 4) * m.heads
    x = x.flatten(2)
    return x + m.f1(x)


def _own_sizes(m, x):
    x = x + m.f0(x)
    y = x.view(-1, x.shape[-1])
    y = y + m.f1(y)
    x = y.view(x.size(0), x.size(1), -1)
    return x + m.f2(x)


def _negated(m, x):
    x = x - m.f0(x)
    return x - m.f1(x) + m.f2(x) - m.f3(x)


def _python_sum(m, x):
    x = sum([x, m.f0(x), m.f1(x)])
    return sum((m.f2(x), x))


def _rms_on_the_path(m, x):
    x = x + m.f0(x)
    x = m.g * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))
    return x + m.f1(x)


def _l2_on_the_path(m, x):
    x = x + m.f0(x)
    x = x / x.pow(2).sum(-1, keepdim=True).sqrt()
    return x + m.f1(x)


def _softmax_on_the_path(m, x):
    x = torch.softmax(x + m.f0(x), -1)
    return x + m.f1(x)


def _fill(m, x):
    noise = torch.empty_like(x).fill_(0.5)
    x = x + m.f0(x) * noise
    return x + m.f1(x)


def _shift_on_the_path(m, x):
    x = x + m.f0(x) + m.g
    return x + m.f1(x + 1.0)


def _scaled_by_an_earlier_state(m, x):
    early = x + m.f0(x)
    x = (early + m.f1(early)) * early
    return x + m.f2(x)


BODIES = {f.__name__.strip("_").replace("_", " "): f for f in (
    _collected, _towers, _used_later, _branch_reads_both, _branch_reads_both_at_the_entry, _branch_reads_lifted,
    _branch_is_output_too, _moved_skip, _flat_skip, _views_on_the_path, _own_sizes, _negated, _python_sum,
    _rms_on_the_path, _l2_on_the_path, _softmax_on_the_path, _fill, _shift_on_the_path,
    _scaled_by_an_earlier_state,
)}  # fmt: skip


SITES = {
    "collected": 3,
    "towers": 4,
    "used later": 3,
    "moved skip": 3,
    "own sizes": 3,
    "branch reads both at the entry": 1,
    "scaled by an earlier state": 3,
}


TRACED = ("collected", "moved skip", "own sizes", "python sum", "fill")
"""What Dynamo writes otherwise than `symbolic_trace`: sizes, sums of Python, writes in place, views."""
