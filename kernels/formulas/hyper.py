"""Hyper-connections without a manifold, Zhu et al., arXiv 2409.19606: parameters and initial values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mhc_compile.kernels.formulas import initial_values as initial
from mhc_compile.kernels.formulas import reference

Shapes = dict[str, tuple[int, ...]]
HYPER_SCALE = 0.01


def static_shapes(n: int, channels: int) -> Shapes:
    """Of static hyper-connections, by name."""
    return {"static_pre": (n,), "static_post": (n,), "static_res": (n, n)}


def static_values(start: initial.Start) -> dict[str, Tensor]:
    """Read one stream in turn, write to all, mix nothing."""
    eye = torch.eye(start.n, dtype=torch.float64)
    return {"static_pre": eye[start.position % start.n], "static_post": torch.ones(start.n), "static_res": eye}


def static_coefficients(X: Tensor, params: Sequence[Tensor], *, n: int, axis: int) -> reference.Coefficients:
    """`reference.static_coefficients` with the arguments of a row of the table."""
    return reference.static_coefficients(X, params)


def hyper_shapes(n: int, channels: int) -> Shapes:
    """Of dynamic hyper-connections, by name."""
    weights: Shapes = {"w_pre": (channels,), "w_post": (channels,), "w_res": (channels, n)}
    scales: Shapes = {"scale_pre": (1,), "scale_post": (1,), "scale_res": (1,)}
    return static_shapes(n, channels) | weights | scales


def hyper_values(start: initial.Start) -> dict[str, Tensor]:
    """As the static ones, with a dynamic part of zero, or drawn from N(0, 0.02)."""
    values = static_values(start)
    for name, shape in hyper_shapes(start.n, start.channels).items():
        if name.startswith("w_"):
            values[name] = initial.projection_weights(shape, init=start.init, generator=start.generator)
        elif name.startswith("scale_"):
            values[name] = torch.full(shape, HYPER_SCALE, dtype=torch.float64)
    return values


def operands(params: Sequence[Tensor], n: int) -> tuple[Tensor, Tensor, Tensor]:
    """The parameters as phi, alpha and bias of the fused steps (see `norms.py`), in the layout of a manifold's.

    Phi is block diagonal: each stream is projected on columns of its own, on `k * n + i` for stream i and kind k: what
    it is read with, what is written to it, then what each stream takes of it. A norm takes the mean off a stream; here
    it is taken off the columns instead, so that the streams are projected as they are.
    """
    dtype = reference.coefficient_dtype(params[0].dtype)
    static_pre, static_post, static_res, w_pre, w_post, w_res, *scales = (p.to(dtype) for p in params)
    weights = torch.cat((w_pre.unsqueeze(1), w_post.unsqueeze(1), w_res), 1)
    weights = weights - weights.mean(0)
    eye = torch.eye(n, dtype=weights.dtype, device=weights.device)
    phi = weights[None, :, :, None] * eye[:, None, None, :]
    bias = torch.cat((static_pre, static_post, static_res.t().flatten()))
    return phi.reshape(-1, n * (n + 2)), torch.cat(scales), bias


def paper_values(start: initial.Start) -> dict[str, Tensor]:
    """As the paper starts: no dynamic part."""
    return hyper_values(replace(start, init="preserve"))
