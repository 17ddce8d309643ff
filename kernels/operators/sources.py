"""The seam to the graph rewrite for connections over a list of sources, as `streams.py` is for streams.

The values themselves are tensors of the model. What is put into a graph is the read of a site, and the add behind which
a sum begins anew.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mhc_compile.errors import InvalidOptionError
from mhc_compile.kernels.formulas import sources
from mhc_compile.kernels.formulas.connections import find
from mhc_compile.kernels.operators.streams import full_precision


def read_sources(values: Sequence[Tensor], params: Sequence[Tensor], *, connection: str, axis: int) -> Tensor:
    """What a site, or a readout, reads: a weighted sum of the sources, in the dtype of the newest.

    Args:
        values: the sources of one shape, the newest last.
        params: the parameters of the site, in the order of `connections.parameter_shapes`.
        connection: one with `sources`.
        axis: index of the channels; negative counts from the end.

    Raises:
        InvalidOptionError: the connection is not known, or keeps streams.
    """
    row = find(connection, len(values)).sources
    if row is None:
        raise InvalidOptionError(f"connection={connection!r} keeps streams: use mhc_compile.kernels.operators.streams")
    with full_precision(values[-1]):
        return sources.read(values, row.weights(values, params, axis=axis % values[-1].ndim))


def begin_sum(before: Tensor, y: Tensor) -> Tensor:
    """The first term of a sum that begins anew, in the dtype that `before + y` has."""
    return y.to(torch.promote_types(before.dtype, y.dtype))
