"""Values that come back before every block, and merges by a mask: no residuals, and they cost no site."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.passes.graphs import found, reasons
from tests.passes.layers import Net2, mlps, tokens, vector

X = tokens()


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


IN_THE_BRANCH = {
    "added": lambda x, x0, seen: x + x0,
    "mixed": lambda x, x0, seen: 0.9 * x + 0.1 * x0,
    "all layers so far": lambda x, x0, seen: sum(seen),
    "their mean": lambda x, x0, seen: torch.stack(seen).mean(0),
}


@pytest.mark.parametrize("name", IN_THE_BRANCH)
@pytest.mark.parametrize("layers", [3, 4])
def test_an_early_value_that_every_branch_reads_beside_its_stream_costs_no_site(name, layers):
    def body(m, x):
        x0 = x = m.stem(x)
        seen = [x]
        for f in (m.f0, m.f1, m.f2, m.f3)[:layers]:
            x = x + f(IN_THE_BRANCH[name](x, x0, seen))
            seen.append(x)
        return x

    counts, plan = found(body, stem=nn.Linear(8, 8), **mlps(4))
    assert counts == (layers, 1) and {"INJECTED", "COLLECTED"} & set(reasons(plan))


def test_a_value_injected_into_few_layers_costs_no_site():
    """The first layer reads it as it is; what is injected behind it looks like a second level around that layer."""

    def body(m, x):
        x0 = x = m.stem(x)
        x = 0.9 * (x + m.f0(x)) + 0.3 * x0
        x = 0.9 * (x + m.f1(x)) + 0.3 * x0
        return x + m.f2(x)

    assert found(body, stem=nn.Linear(8, 8), **mlps(3))[0] == (3, 1)


def test_a_value_injected_into_many_layers_costs_not_even_the_first_site():
    """What comes back so often looks like a bias that is added in every layer, but its first sum is a layer."""

    def body(m, x):
        x0 = x = m.stem(x)
        for f in (m.f0, m.f1, m.f2, m.f3, m.f4, m.f5):
            x = 0.9 * (x + f(x)) + 0.3 * x0
        return x

    counts, plan = found(body, stem=nn.Linear(8, 8), **mlps(6))
    assert counts == (6, 1) and reasons(plan).count("INJECTED") == 6


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
