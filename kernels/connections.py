"""The connections a user can choose: their parameters, initial values and coefficients, in one table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor

from mhc_compile.config import MAX_STREAMS
from mhc_compile.errors import InvalidOptionError
from mhc_compile.kernels import initial, reference
from mhc_compile.kernels.projections import PROJECTIONS

Shapes = dict[str, tuple[int, ...]]
HYPER_SCALE = 0.01


@dataclass(frozen=True)
class Start:
    """What the initial values of one site depend on; the fields are those of `initial_values`."""

    n: int
    channels: int
    position: int
    linear: bool
    init: str
    generator: torch.Generator | None


@dataclass(frozen=True)
class Connection:
    """One kind of connection.

    Attributes:
        name: what the user writes.
        shapes: n and C to the shapes of the parameters by name, in the order `coefficients` takes them.
        values: a start to the initial values by name, in the same order, any float dtype and device.
        coefficients: `(X, params, *, n, axis)` to `(pre, post, R)`; X is `[n, *x.shape]`, or `x[None]` at an entry.
        max_streams: the largest n it takes.
        powers: n must be a power of two.
        single_pass: a site is read with the read weights of the site before (see `passes/single_pass.py`).
    """

    name: str
    shapes: Callable[[int, int], Shapes]
    values: Callable[[Start], dict[str, Tensor]]
    coefficients: Callable[..., reference.Coefficients]
    max_streams: int = MAX_STREAMS
    powers: bool = False
    single_pass: bool = False


def _manifold_shapes(projection: str, n: int, channels: int) -> Shapes:
    logits = PROJECTIONS[projection].logits(n)
    columns = 2 * n + logits
    return {"phi": (n * channels, columns), "alpha": (3 if logits else 2,), "bias": (columns,)}


def _manifold_values(projection: str, start: Start) -> dict[str, Tensor]:
    shapes = _manifold_shapes(projection, start.n, start.channels)
    row = PROJECTIONS[projection]
    pre, post = initial.gate_biases(start.n, position=start.position, linear=start.linear, code=row.code(start.n))
    return {
        "phi": initial.projection_weights(shapes["phi"], init=start.init, generator=start.generator),
        "alpha": torch.full(shapes["alpha"], initial.ALPHA, dtype=torch.float64),
        "bias": torch.cat((pre, post, row.start(start.n))),
    }


def _manifold(name: str, projection: str, *, single_pass: bool = False) -> Connection:
    row = PROJECTIONS[projection]
    return Connection(
        name,
        partial(_manifold_shapes, projection),
        partial(_manifold_values, projection),
        partial(reference.manifold_coefficients, matrix=row.matrix),
        row.max_streams,
        row.powers,
        single_pass,
    )


def _static_shapes(n: int, channels: int) -> Shapes:
    return {"static_pre": (n,), "static_post": (n,), "static_res": (n, n)}


def _static_values(start: Start) -> dict[str, Tensor]:
    eye = torch.eye(start.n, dtype=torch.float64)
    return {"static_pre": eye[start.position % start.n], "static_post": torch.ones(start.n), "static_res": eye}


def _static_coefficients(X: Tensor, params: Sequence[Tensor], *, n: int, axis: int) -> reference.Coefficients:
    return reference.static_coefficients(X, params)


def _hyper_shapes(n: int, channels: int) -> Shapes:
    weights: Shapes = {"w_pre": (channels,), "w_post": (channels,), "w_res": (channels, n)}
    scales: Shapes = {"scale_pre": (1,), "scale_post": (1,), "scale_res": (1,)}
    return _static_shapes(n, channels) | weights | scales


def _hyper_values(start: Start) -> dict[str, Tensor]:
    values = _static_values(start)
    for name, shape in _hyper_shapes(start.n, start.channels).items():
        if name.startswith("w_"):
            values[name] = initial.projection_weights(shape, init=start.init, generator=start.generator)
        elif name.startswith("scale_"):
            values[name] = torch.full(shape, HYPER_SCALE, dtype=torch.float64)
    return values


_RESIDUAL = Connection(
    "residual", lambda n, channels: {}, lambda start: {}, lambda X, params, *, n, axis: reference.plain_coefficients(X)
)

CONNECTIONS: Mapping[str, Connection] = MappingProxyType(
    {
        row.name: row
        for row in (
            _RESIDUAL,
            Connection("hc", _hyper_shapes, _hyper_values, reference.hyper_coefficients),
            Connection("hc-static", _static_shapes, _static_values, _static_coefficients),
            _manifold("mhc", "sinkhorn"),
            _manifold("mhc-single-pass", "sinkhorn", single_pass=True),
            _manifold("mhc-lite", "permutations"),
            _manifold("kronecker", "kronecker"),
            _manifold("circulant", "circulant"),
            _manifold("identity", "identity"),
        )
    }
)


def find(connection: str, n: int) -> Connection:
    """The row for `connection`; with one stream every connection is the plain residual one.

    Raises:
        InvalidOptionError: the name is not known, n is out of its range, or `residual` is asked for more than 1 stream.
    """
    if connection not in CONNECTIONS:
        raise InvalidOptionError(f"connection={connection!r} is not known: write one of {', '.join(CONNECTIONS)}")
    row = CONNECTIONS[connection] if n != 1 else _RESIDUAL
    limit = 1 if row is _RESIDUAL else row.max_streams
    if not 1 <= n <= limit:
        raise InvalidOptionError(f"connection={connection!r} takes n from 1 to {limit}, got n={n}: write a smaller n")
    if row.powers and n.bit_count() != 1:
        raise InvalidOptionError(f"connection={connection!r} takes powers of two, got n={n}: write n=2, 4 or 8")
    return row


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
