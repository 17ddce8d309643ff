"""How far two outputs are from each other, whatever they are made of, and how far they may be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

_ALLOWED = {torch.float64: 1e-6, torch.float32: 1e-3}  # some models round to fp32 in between
_ALLOWED_HALF = 0.25  # what is computed wrongly is about 1 away


def floats(value: Any) -> Iterator[Tensor]:
    """Every floating point tensor in nested tuples, lists and mappings (`ModelOutput` is one), in order."""
    if isinstance(value, Tensor) and value.is_floating_point():
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from floats(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from floats(item)


def distance(reference: Any, other: Any) -> float:
    """Largest absolute difference relative to the root mean square of its tensor; inf where structures differ.

    Entries that are not finite (masks) must be so in both, and with the same value.
    """
    left, right = list(floats(reference)), list(floats(other))
    if [t.shape for t in left] != [t.shape for t in right] or not left:
        return float("inf")
    return max(_distance(a.detach().double(), b.detach().double()) for a, b in zip(left, right, strict=True))


def _distance(a: Tensor, b: Tensor) -> float:
    finite = a.isfinite()
    same_elsewhere = torch.equal(a[~finite].nan_to_num(), b[~finite].nan_to_num()) and bool(b[finite].isfinite().all())
    if not same_elsewhere or not torch.equal(finite, b.isfinite()):
        return float("inf")
    if not finite.any():
        return 0.0
    scale = float(a[finite].square().mean().sqrt()) or 1.0
    return float((a[finite] - b[finite]).abs().max()) / scale


def allowed(*values: Any) -> float:
    """The largest distance that rounding explains, by the narrowest floating point tensor in `values`."""
    return max((_ALLOWED.get(tensor.dtype, _ALLOWED_HALF) for value in values for tensor in floats(value)), default=0.0)
