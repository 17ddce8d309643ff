"""Connections over a list of sources instead of n streams: what a site reads, in plain PyTorch.

The residual stream is a sum. Here some of its partial sums are kept as they were, and a site reads a weighted sum of
them, `u = sum_k w_k s_k`, the newest last. There are two, on one mechanism:

* `attention` (Block Attention Residuals, Kimi, arXiv 2603.15031; Inkling2): a source is what the layers of one block
  have added up, and the sum begins anew behind it. `w = softmax_k(q . N(s_k) / sqrt(C))` over `N(s_k)`, the RMS norm
  without a weight; q is learned, one for each site.
* `dense` (DenseFormer, arXiv 2402.02622; MUDD, arXiv 2502.12170): a source is what the stream was, and the stream
  goes on from what was read. `w_k = a_k`, plus `(gelu(N(s_last) down) up)_k` of the token with `rank` above 0.

`values` are tensors of one shape with their channels at index `axis`; their dtypes may differ. Weights are fp32, fp64
for fp64 sums. Products are written so that autograd keeps the sums themselves and a few numbers per token, no copies:
what a model keeps for its backward grows with its blocks, not with sites times blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional as F

from mhc_compile.kernels.formulas import initial_values as initial
from mhc_compile.kernels.formulas import reference

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Sources:
    """How a site reads a list of sources.

    Attributes:
        weights: `(values, params, *, axis)` to one weight per token for each value, `[k, *token dims]`.
        layers: how many layers of the model are one block, whose sum becomes a source; 0 makes one of every site.
        restarts: the sum begins anew behind a block. Else it goes on from what its first site has read, and only that
            site reads a weighted sum.
    """

    weights: Callable[..., Tensor]
    layers: int
    restarts: bool


def attention_shapes(count: int, channels: int) -> Shapes:
    """Of the parameters of a site that reads `count` sources, by name; one alone is read as it is."""
    return {"query": (channels,)} if count > 1 else {}


def attention_values(start: initial.Start) -> dict[str, Tensor]:
    """A query of zero, as released: the mean of the normed sources; N(0, 0.02) for `init="random"`."""
    init = "random" if start.init == "random" else "preserve"
    shapes = attention_shapes(start.n, start.channels)
    return {
        name: initial.projection_weights(shape, init=init, generator=start.generator) for name, shape in shapes.items()
    }


def attention_weights(values: Sequence[Tensor], params: Sequence[Tensor], *, axis: int) -> Tensor:
    """`softmax_k(q . N(s_k) / sqrt(C))`, times what norms each source.

    Args:
        values: the sources.
        params: `query [C]`.
        axis: index of the channels.

    Returns:
        `[k, *token dims]` in the coefficient dtype.
    """
    (query,) = params
    inverses = [_inverse_rms(value, axis) for value in values]
    scores = [_project(v, query.unsqueeze(1), axis)[0] * i for v, i in zip(values, inverses, strict=True)]
    weights = torch.softmax(torch.stack(scores) / math.sqrt(query.shape[0]), 0)
    return weights * torch.stack(inverses)


def dense_shapes(rank: int, count: int, channels: int) -> Shapes:
    """Of the parameters of a site that reads `count` sources, by name; one alone is read as it is."""
    if count < 2:
        return {}
    dynamic: Shapes = {"down": (channels, rank), "up": (rank, count)} if rank else {}
    return {"static": (count,), **dynamic}


def dense_values(rank: int, start: initial.Start) -> dict[str, Tensor]:
    """The newest source alone. `up` starts at zero behind a `down` that does not, so that both learn.

    `init="random"` draws deviations from N(0, 0.02); `"paper"` draws `down` from N(0, 1 / C).
    """
    shapes = dense_shapes(rank, start.n, start.channels)
    values: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        values[name] = initial.projection_weights(shape, init=start.init, generator=start.generator)
    if "static" in shapes:
        values["static"] = values["static"] * (start.init == "random") + torch.eye(start.n)[-1]
    if rank and shapes and start.init == "paper":
        values["up"] = torch.zeros(shapes["up"])
        values["down"] = values["down"] / (initial.PHI_STD * math.sqrt(start.channels))
    if rank and shapes and start.init == "preserve":
        values["down"] = initial.cosines(*shapes["down"])
    return values


def dense_weights(values: Sequence[Tensor], params: Sequence[Tensor], *, axis: int) -> Tensor:
    """`a_k`, and what depends on the token if there are parameters for it; arguments as for `attention_weights`.

    Args:
        values: the sources.
        params: `static [k]`, then `down [C, rank]` and `up [rank, k]`, or neither.
        axis: index of the channels.
    """
    dtype, last = _dtype(values), values[-1]
    static, *dynamic = (p.to(dtype) for p in params)
    weights = static.reshape(-1, *(1,) * last.ndim)
    if not dynamic:
        return weights
    down, up = dynamic
    hidden = F.gelu(_project(last, down, axis) * _inverse_rms(last, axis))
    return weights + torch.einsum("r...,rk->k...", hidden, up)


def read(values: Sequence[Tensor], weights: Tensor) -> Tensor:
    """`sum_k weights_k values_k`, accumulated in the dtype of the weights, returned in that of the newest value."""
    total = values[0] * weights[0]
    for value, weight in zip(values[1:], weights.unbind(0)[1:], strict=True):
        total = total + value * weight
    return total.to(values[-1].dtype)


def _dtype(values: Sequence[Tensor]) -> torch.dtype:
    return reference.coefficient_dtype(reduce(torch.promote_types, (value.dtype for value in values)))


def _inverse_rms(value: Tensor, axis: int) -> Tensor:
    """`[*token dims]`; a narrow value is squared in the wide dtype without becoming a wide copy that autograd keeps."""
    dtype = reference.coefficient_dtype(value.dtype)
    if value.dtype == dtype:
        mean = value.square().mean(axis, keepdim=True)
    else:
        mean = torch.linalg.vector_norm(value, dim=axis, keepdim=True, dtype=dtype).square() / value.shape[axis]
    return torch.rsqrt(mean + reference.RMS_EPS)


def _project(value: Tensor, columns: Tensor, axis: int) -> Tensor:
    """`value @ columns [C, m]` as `[m, *token dims]`, in the coefficient dtype."""
    dtype, rows = reference.coefficient_dtype(value.dtype), value.movedim(axis, -1)
    columns = columns.to(dtype)
    if value.dtype == dtype:
        product = rows @ columns
    else:
        product = torch.stack([(rows * column).sum(-1) for column in columns.unbind(1)], -1)
    return product.movedim(-1, 0).unsqueeze(axis + 1)
