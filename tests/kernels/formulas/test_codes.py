"""Along which streams are written and read at the start, so that each learns something else."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from mhc_compile.kernels.formulas import initial_values as initial
from tests.kernels.formulas.test_connections import CASES
from tests.kernels.site_chain import Chain

CODES = [(initial.halved_codes, n) for n in range(2, 9)] + [(initial.signed_codes, n) for n in (2, 4, 8)]


@pytest.mark.parametrize(("codes", "n"), CODES)
def test_codes_are_orthogonal_and_of_mean_zero(codes, n):
    e, g = codes(n).write, codes(n).read
    assert max(abs(e.sum()), abs(g.sum()), abs(e @ g)) < 1e-15
    assert e.abs().max() == 1
    assert (g.abs().max() == 0) == (n == 2)


@pytest.mark.parametrize(("codes", "n"), CODES)
def test_no_two_streams_start_alike(codes, n):
    """If two did, nothing that is learned would ever tell them apart."""
    assert len(set(zip(codes(n).write.tolist(), codes(n).read.tolist(), strict=True))) == n


def test_codes_are_those_of_the_method():
    four, three = initial.halved_codes(4), initial.halved_codes(3)
    assert four.write.tolist() == [1, -1, 0, 0] and four.read.tolist() == [0, 0, 1, -1]
    assert three.write.tolist() == [1, -1, 0] and three.read.tolist() == [0.5, 0.5, -1]


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize(("connection", "n"), [c for c in CASES if c[1] in (4, 6, 8)])
def test_no_stream_stays_the_copy_of_another(connection, n, linear):
    torch.manual_seed(n)
    chain = Chain(connection, n, "mean", linear, depth=n + 2)  # `hc` reads one stream per site, in turn
    optimizer = torch.optim.SGD([p.requires_grad_() for p in chain.named().values()], lr=0.1)
    x, target = torch.randn(2, 6, 5, dtype=torch.float64)
    for _ in range(3):
        optimizer.zero_grad()
        ((chain(x) - target) ** 2).mean().backward()
        optimizer.step()
    X = chain.all_streams(x)
    assert min((a - b).abs().max() for a, b in combinations(X, 2)) > 1e-6
