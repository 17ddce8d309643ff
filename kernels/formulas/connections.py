"""Parameters of sites and readouts by name: shapes, initial values, counts. The connections are in `table.py`."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from mhc_compile.errors import InvalidOptionError
from mhc_compile.kernels.formulas import initial_values as initial
from mhc_compile.kernels.formulas import released
from mhc_compile.kernels.formulas.initial_values import Start
from mhc_compile.kernels.formulas.lookup import canonical, find, fixed_streams, row_of, why_no_paper, why_not_kept
from mhc_compile.kernels.formulas.table import CONNECTIONS, Shapes

__all__ = [
    "CONNECTIONS",
    "canonical",
    "find",
    "fixed_streams",
    "initial_values",
    "parameter_count",
    "parameter_shapes",
    "readout_eps",
    "readout_shapes",
    "readout_values",
    "why_no_paper",
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
        init: `preserve`, `random`, or `paper`, where a release has a start of its own.
        dtype: final dtype of the values, fp32 or fp64.
        device: where to put them.
        generator: source of the random values.

    Raises:
        InvalidOptionError: see `find`, or `init` is not known, or not for this connection.
    """
    _check_init(init)
    row, start = find(connection, n), Start(n, channels, position, linear, init, generator)
    if init != "paper":
        return _finish(row.values(start), dtype, device)
    if row.paper is None:
        raise InvalidOptionError(why_no_paper(connection))
    return _finish(row.paper(start), dtype, device)


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
    connection: str = "mhc",
) -> dict[str, Tensor]:
    """Initial values of one readout, arguments as for `initial_values`: the mean, plus the read code if `linear`.

    With `init="paper"` those that belong to the connection, if its release has such a readout.

    Raises:
        InvalidOptionError: `reduce` or `init` is not known.
    """
    _check_init(init)
    shapes = readout_shapes(reduce, n, channels)
    if not shapes:
        return {}
    row, eps = find(connection, n), readout_eps(connection)
    release = row.release
    if init == "paper" and release is not None:
        return _finish(released.readout_values(release, n, channels, generator), dtype, device)
    values = {
        "phi": initial.projection_weights(shapes["phi"], init=init, generator=generator),
        "alpha": torch.full(shapes["alpha"], initial.ALPHA, dtype=torch.float64),
        "bias": initial.read_bias(row.codes(n), eps) if linear else initial.mean_bias(n, eps),
    }
    return _finish(values, dtype, device)


def readout_eps(connection: str) -> float:
    """What a learned readout adds to its weights: what the connection adds to those of its sites.

    Raises:
        InvalidOptionError: a name, an option or a value is not known.
    """
    manifold = row_of(connection).manifold
    return 0.0 if manifold is None else manifold.eps


def parameter_count(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Number of scalars in parameters of these shapes."""
    return sum(map(math.prod, shapes.values()))


def _check_init(init: str) -> None:
    if init not in ("preserve", "random", "paper"):
        raise InvalidOptionError(f"init={init!r} is not known: write one of preserve, random, paper")


def _finish(values: dict[str, Tensor], dtype: torch.dtype, device: torch.device | str) -> dict[str, Tensor]:
    # clone: rows of one identity matrix must not become parameters that share memory.
    return {name: value.clone().to(device=device, dtype=dtype) for name, value in values.items()}
