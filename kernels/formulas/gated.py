"""The gated residual of Qwen4-exp: every channel of every stream has a read gate of its own, and nothing is mixed.

    v_i = RMSNorm(X_i) * norm_i                     per stream, norm is nC numbers
    a   = sigmoid(silu(v @ down / n) @ up)          nC, through `rank` numbers
    u   = mean_i a_i * v_i
    X'_i = X_i + 2 sigmoid(v @ inject / n)_i * f(u)

A branch reads normed streams, so no start keeps the function of every model. Where all branches begin with an RMSNorm
or LayerNorm of their channels, which a factor per token does not change, it is kept up to the eps of the norms.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mhc_compile.kernels.formulas import initial_values as initial
from mhc_compile.kernels.formulas import reference

RANK = 32


def shapes(rank: int, n: int, channels: int) -> dict[str, tuple[int, ...]]:
    """Of the parameters of a site, by name."""
    wide = n * channels
    return {"norm": (wide,), "down": (wide, rank), "up": (rank, wide), "inject": (wide, n)}


def values(rank: int, start: initial.Start) -> dict[str, Tensor]:
    """Initial values: the read is the norm of the mean of the streams, `2 a_i norm_i / n` of unequal weights.

    `up` and `inject` start at zero, `down` with the columns of a cosine transform, so that both sides of the product
    learn; `init="random"` draws the three from N(0, 0.02). `"paper"` does, too, and leaves the norms alone.
    """
    n, channels = start.n, start.channels
    norm = 2 * n * initial.unequal_weights(n, start.position) if start.init != "paper" else torch.ones(n).double()
    made = {"norm": norm.repeat_interleave(channels)}
    for name, shape in list(shapes(rank, n, channels).items())[1:]:
        made[name] = initial.projection_weights(shape, init=start.init, generator=start.generator)
    if start.init == "preserve":
        made["down"] = initial.cosines(n * channels, rank)
    return made


def coefficients(X: Tensor, params: Sequence[Tensor], *, n: int, axis: int) -> reference.Coefficients:
    """`pre [n, *x.shape]`, which norms and gates each channel, post `[n, *token dims]`, and R = I.

    Args:
        X: streams `[n, *x.shape]`, or `[1, *x.shape]` when all n are equal.
        params: `norm [nC]`, `down [nC, rank]`, `up [rank, nC]`, `inject [nC, n]`.
        n: number of streams.
        axis: index of the channels in `x`.
    """
    dtype = reference.coefficient_dtype(X.dtype)
    norm, down, up, inject = (p.to(dtype) for p in params)
    V = X.to(dtype).movedim((0, axis + 1), (-2, -1))
    inverse = torch.rsqrt(V.square().mean(-1, keepdim=True) + reference.RMS_EPS)
    weights = norm.unflatten(0, (n, -1)) * inverse  # [..., n, C]
    v = (weights * V).flatten(-2)
    gate = torch.sigmoid(torch.nn.functional.silu(v @ down / n) @ up).unflatten(-1, (n, -1))
    post = 2 * torch.sigmoid(v @ inject / n)
    pre = (gate * weights / n).movedim((-2, -1), (0, axis + 1))
    eye = reference.over_tokens(torch.eye(n, dtype=dtype, device=X.device), X)
    return pre.contiguous(), post.movedim(-1, 0).unsqueeze(axis + 1).contiguous(), eye
