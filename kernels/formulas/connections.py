"""Parameters of sites and readouts by name: shapes, initial values, counts. The connections are in `table.py`."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from mhc_compile.errors import InvalidOptionError
from mhc_compile.kernels.formulas import initial_values as initial
from mhc_compile.kernels.formulas.initial_values import Start
from mhc_compile.kernels.formulas.table import CONNECTIONS, Shapes, canonical, find, why_not_kept

__all__ = [
    "CONNECTIONS",
    "canonical",
    "find",
    "initial_values",
    "parameter_count",
    "parameter_shapes",
    "readout_shapes",
    "readout_values",
    "why_not_kept",
]


def parameter_shapes(connection: str, n: int, channels: int) -> Shapes:
    """Shapes of the parameters of one site by name, in order; empty for one stream.

    Raises:
        InvalidOptionError: see `find`.
    """
    return find(connection, n).shapes(n, channels)


def initial_values(
    connection: str,
    n: int,
    channels: int,
    *,
    position: int,
    linear: bool,
    init: str,
    dtype: torch.dtype,
    device: torch.device | str,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Initial values of one site by name, in the order of `parameter_shapes`.

    Args:
        connection: a key of `CONNECTIONS`.
        n: number of streams.
        channels: number of channels C.
        position: index of the site in its segment.
        linear: only linear ops lie on the stream paths of the segment, so streams may differ from the start.
        init: `preserve` or `random`.
        dtype: final dtype of the values, fp32 or fp64.
        device: where to put them.
        generator: source of the random values.

    Raises:
        InvalidOptionError: see `find`, or `init` is not known.
    """
    _check_init(init)
    values = find(connection, n).values(Start(n, channels, position, linear, init, generator))
    return _finish(values, dtype, device)


def readout_shapes(reduce: str, n: int, channels: int) -> Shapes:
    """Shapes of the parameters of one readout by name, in order: empty for `mean`, `sum`, and for one stream.

    Raises:
        InvalidOptionError: `reduce` is not known.
    """
    if reduce not in ("mean", "sum", "learned"):
        raise InvalidOptionError(f"reduce={reduce!r} is not known: write one of mean, sum, learned")
    return {"phi": (n * channels, n), "alpha": (1,), "bias": (n,)} if reduce == "learned" and n > 1 else {}


def readout_values(
    reduce: str,
    n: int,
    channels: int,
    *,
    linear: bool,
    init: str,
    dtype: torch.dtype,
    device: torch.device | str,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Initial values of one readout, arguments as for `initial_values`: the mean, plus the read code if `linear`.

    Raises:
        InvalidOptionError: `reduce` or `init` is not known.
    """
    _check_init(init)
    shapes = readout_shapes(reduce, n, channels)
    if not shapes:
        return {}
    values = {
        "phi": initial.projection_weights(shapes["phi"], init=init, generator=generator),
        "alpha": torch.full(shapes["alpha"], initial.ALPHA, dtype=torch.float64),
        "bias": initial.read_bias(n) if linear else initial.mean_bias(n),
    }
    return _finish(values, dtype, device)


def parameter_count(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Number of scalars in parameters of these shapes."""
    return sum(map(math.prod, shapes.values()))


def _check_init(init: str) -> None:
    if init not in ("preserve", "random"):
        raise InvalidOptionError(f"init={init!r} is not known: write one of preserve, random")


def _finish(values: dict[str, Tensor], dtype: torch.dtype, device: torch.device | str) -> dict[str, Tensor]:
    # clone: rows of one identity matrix must not become parameters that share memory.
    return {name: value.clone().to(device=device, dtype=dtype) for name, value in values.items()}
