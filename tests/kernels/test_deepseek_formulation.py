"""Our site against DeepSeek's way of writing it: token-major streams, `comb = R^T`, merge with `comb^T X`."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mhc_compile.kernels.formulas import reference
from mhc_compile.kernels.operators import streams

B, S, C = 2, 3, 6


def deepseek_comb(logits: Tensor) -> Tensor:
    """`[..., n, n]`: softmax over the last axis, columns, then 19 times (rows, columns); no epsilon."""
    comb = torch.softmax(logits, dim=-1)
    comb = comb / comb.sum(-2, keepdim=True)
    for _ in range(19):
        comb = comb / comb.sum(-1, keepdim=True)
        comb = comb / comb.sum(-2, keepdim=True)
    return comb


def deepseek_site(hidden: Tensor, weight: Tensor, scale: Tensor, base: Tensor, y: Tensor):
    """`hidden [B, S, n, C]`, `weight [2n + n^2, nC]`: the collapsed input, the next streams, and comb."""
    n = hidden.shape[2]
    flat = hidden.flatten(2)
    mixes = torch.nn.functional.linear(torch.nn.functional.rms_norm(flat, flat.shape[-1:], eps=1e-6), weight)
    pre_w, post_w, comb_w = mixes.split([n, n, n * n], dim=-1)
    pre = torch.sigmoid(pre_w * scale[0] + base[:n])
    post = 2 * torch.sigmoid(post_w * scale[1] + base[n : 2 * n])
    comb = deepseek_comb((comb_w * scale[2] + base[2 * n :]).unflatten(-1, (n, n)))
    collapsed = (pre.unsqueeze(-1) * hidden).sum(2)
    merged = torch.einsum("bsjk,bsjc->bskc", comb, hidden)
    return collapsed, merged + post.unsqueeze(-1) * y.unsqueeze(2), comb


def transposed_columns(values: Tensor, n: int) -> Tensor:
    """Swaps the row-major res block (last axis) between R and comb = R^T."""
    res = values[..., 2 * n :].unflatten(-1, (n, n)).transpose(-1, -2).flatten(-2)
    return torch.cat((values[..., : 2 * n], res), dim=-1)


def inputs(n: int, std: float):
    make = torch.Generator().manual_seed(n)
    draw = lambda *shape: torch.randn(*shape, dtype=torch.float64, generator=make)
    X, y, phi = draw(n, B, S, C), draw(B, S, C), draw(n * C, 2 * n + n * n)
    alpha = std * torch.ones(3, dtype=torch.float64)
    bias = torch.cat((draw(2 * n), 2 * torch.eye(n, dtype=torch.float64).flatten()))
    return X, y, phi, alpha, bias


def ours(X: Tensor, y: Tensor, *params: Tensor):
    pre, post, R = streams.coefficients(X, params, connection="mhc", axis=2)
    return streams.read(X, pre), streams.write(X, y, post, R), R


def theirs(X: Tensor, y: Tensor, phi: Tensor, alpha: Tensor, bias: Tensor, *, transpose=True):
    n = X.shape[0]
    if transpose:
        phi, bias = transposed_columns(phi, n), transposed_columns(bias, n)
    collapsed, merged, comb = deepseek_site(X.movedim(0, 2), phi.t(), alpha, bias, y)
    return collapsed, merged.movedim(2, 0), comb.movedim((2, 3), (1, 0)).unsqueeze(-1)


def arbitrary_logits(n: int, kind: str) -> Tensor:
    noise = torch.randn(n, n, 500, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    around_identity = 2 * torch.eye(n, dtype=torch.float64).unsqueeze(-1) + 0.3 * noise
    return {"std 1": noise, "std 3": 3 * noise, "2I + noise": around_identity}[kind]


@pytest.mark.parametrize("kind", ["std 1", "std 3", "2I + noise"])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 8])
def test_same_matrix_from_arbitrary_logits(n, kind):
    L = arbitrary_logits(n, kind)
    comb = deepseek_comb(L.permute(2, 1, 0))
    torch.testing.assert_close(reference.sinkhorn(L), comb.permute(2, 1, 0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("std", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("n", [2, 3, 4, 8])
def test_same_site_from_arbitrary_coefficients(n, std):
    for mine, other in zip(ours(*inputs(n, std)), theirs(*inputs(n, std)), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-12)


def test_rescaled_rows_are_another_matrix():
    """Which is why no row maximum may be subtracted before the first division; only the limit is the same."""
    L = arbitrary_logits(4, "std 1")
    shifted = L - L.amax(1, keepdim=True)
    assert (reference.sinkhorn(L) - reference.sinkhorn(shifted)).abs().max() > 1e-5
    limits = [reference.sinkhorn(M, iterations=2000) for M in (L, shifted, L + L[:, :1])]
    torch.testing.assert_close(limits[0], limits[1], rtol=0, atol=1e-12)
    torch.testing.assert_close(limits[0], limits[2], rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [3, 4, 8])
def test_the_untransposed_matrix_is_another_site(n):
    mine, other = ours(*inputs(n, 1.0)), theirs(*inputs(n, 1.0), transpose=False)
    torch.testing.assert_close(mine[0], other[0])  # the read does not see R
    assert (mine[1] - other[1]).abs().max() > 1e-2


def test_the_other_side_of_comb_conserves_the_wrong_gain():
    logits = torch.randn(200, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    comb = deepseek_comb(logits)
    assert (comb.sum(-2) - 1).abs().max() < 1e-14  # rows of R: exact
    assert (comb.sum(-1) - 1).abs().max() > 1e-9
