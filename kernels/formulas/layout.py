"""Where the channels lie: any tensor as tokens x channels and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """One stream as `[outer, channels, inner]`, contiguous: a token is a pair (outer, inner).

    Channels last has `inner == 1`; NCHW features have `outer = N` and `inner = H * W`. Token `t = outer * inner_size +
    inner`, and its channel `c` lies `(t // inner) * channels * inner + c * inner + t % inner` elements from the start.
    """

    outer: int
    channels: int
    inner: int

    @property
    def tokens(self) -> int:
        """The number of tokens T."""
        return self.outer * self.inner


def layout_of(shape: Sequence[int], axis: int) -> Layout:
    """The layout of a tensor of this shape with its channels at index `axis`, counted from 0."""
    return Layout(math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :]))


def to_rows(X: Tensor, axis: int) -> Tensor:
    """`[m, *shape]` with the channels of a stream at `axis` as `[m, T, C]`; a view where strides allow."""
    return X.movedim(axis + 1, -1).flatten(1, -2)


def from_rows(rows: Tensor, shape: Sequence[int], axis: int) -> Tensor:
    """`[..., T, C]` as `[..., *shape]` with the channels at `axis`, contiguous."""
    channels_last = (*shape[:axis], *shape[axis + 1 :], shape[axis])
    unflat = rows.reshape(*rows.shape[:-2], *channels_last)
    return unflat.movedim(-1, axis - len(shape)).contiguous()
