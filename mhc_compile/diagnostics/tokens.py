"""Of the tensors of a call: some of their tokens, their coefficients by the formulas, whether they are finite."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from mhc_compile.kernels.operators import streams as kernels
from mhc_compile.programs.unsharded import own_part


def coefficients_of(rows: Tensor, params: Sequence[Tensor], connection: str, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """`pre [n, T]`, `post [n, T]`, `R [n, n, T]` by the formulas, from streams `[n, T, C]`, or `[1, T, C]` if equal."""
    if rows.shape[0] == n:
        found = kernels.coefficients(rows, params, connection=connection, axis=-1)
    else:
        found = kernels.entry_coefficients(rows[0], params, connection=connection, n=n, axis=-1)
    # Copied: static coefficients are views of parameters, which FSDP2 frees behind the block.
    pre, post, R = (value.squeeze(-1).clone() for value in found)
    T = rows.shape[1]
    return pre.expand(n, T), post.expand(n, T), R.expand(n, n, T)


def pick(V: Tensor, tokens: int) -> Tensor:
    """`[m, *token dims, C]` as `[m, T, C]`: all tokens, or so many of them, evenly spaced."""
    count = math.prod(V.shape[1:-1])
    if count <= tokens:
        return V.reshape(V.shape[0], count, V.shape[-1])
    index = torch.arange(tokens, device=V.device) * count // tokens
    where: tuple[Any, ...] = (slice(None), *torch.unravel_index(index, V.shape[1:-1]))
    return V[where]


def all_finite(tensor: Tensor) -> Tensor:
    """A scalar that says whether all values are finite, in one pass without a copy."""
    tensor = own_part(tensor.detach())
    if not tensor.numel():
        return torch.ones((), dtype=torch.bool, device=tensor.device)
    low, high = torch.aminmax(tensor)  # NaN comes through
    return torch.isfinite(low) & torch.isfinite(high)


def all_of(flags: Iterable[Tensor], like: Tensor) -> Tensor:
    """A scalar that says whether all of these are true, on the device of `like`."""
    found = list(flags)
    return torch.stack(found).all() if found else torch.ones((), dtype=torch.bool, device=like.device)


def alikeness(rows: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """`gram`, `apart` and `centre` of streams `[n, T, C]`, or `[1, T, C]` if all are equal."""
    wide = rows.to(torch.promote_types(rows.dtype, torch.float32))
    gram = torch.einsum("itc,jtc->ijt", wide, wide) / rows.shape[-1]
    mean = wide.mean(0)
    return gram.expand(n, n, -1), (wide - mean).square().mean((0, 2)), mean.square().mean(1)
