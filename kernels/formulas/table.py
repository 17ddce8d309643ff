"""The connections a user can choose: their parameters, initial values and coefficients, in one table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from types import MappingProxyType

import torch
from torch import Tensor

from mhc_compile.errors import InvalidOptionError
from mhc_compile.kernels.formulas import gated, hyper, reference
from mhc_compile.kernels.formulas import initial_values as initial
from mhc_compile.kernels.formulas.about import EXACTLY, About, Options, parse, spell
from mhc_compile.kernels.formulas.initial_values import Start
from mhc_compile.kernels.formulas.limits import MAX_STREAMS
from mhc_compile.kernels.formulas.manifolds import Manifold
from mhc_compile.kernels.formulas.projections import PROJECTIONS

Shapes = dict[str, tuple[int, ...]]
MOST_EPS = 0.05  # below 0.5 / n, the smallest read weight of a start


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
        single_pass: a site is read with the read weights of the site before (see `passes/decide/single_pass.py`).
        manifold: what the fused steps compute; None where there are none for it.
        about: its row in the table for users.
        options: those it takes, with their values.
    """

    name: str
    shapes: Callable[[int, int], Shapes]
    values: Callable[[Start], dict[str, Tensor]]
    coefficients: Callable[..., reference.Coefficients]
    max_streams: int = MAX_STREAMS
    powers: bool = False
    single_pass: bool = False
    manifold: Manifold | None = None
    about: About = field(default_factory=lambda: About(""))
    options: Options = field(default_factory=dict)


def _manifold_shapes(manifold: Manifold, n: int, channels: int) -> Shapes:
    columns = manifold.columns(n)
    return {"phi": (n * channels, columns), "alpha": (len(manifold.parts(n)),), "bias": (columns,)}


def _manifold_values(manifold: Manifold, start: Start) -> dict[str, Tensor]:
    shapes = _manifold_shapes(manifold, start.n, start.channels)
    row = manifold.row
    pre, post = initial.gate_biases(
        start.n,
        position=start.position,
        linear=start.linear,
        code=row.code(start.n),
        magnitude=manifold.magnitude,
        eps=manifold.eps,
    )
    return {
        "phi": initial.projection_weights(shapes["phi"], init=start.init, generator=start.generator),
        "alpha": torch.full(shapes["alpha"], initial.ALPHA, dtype=torch.float64),
        "bias": torch.cat((pre, post, row.start(start.n))),
    }


def _manifold(name: str, manifold: Manifold, about: About, options: Options | None = None) -> Connection:
    row = manifold.row
    coefficients = partial(
        reference.manifold_coefficients, matrix=row.matrix, magnitude=manifold.magnitude, eps=manifold.eps
    )
    return Connection(
        name,
        partial(_manifold_shapes, manifold),
        partial(_manifold_values, manifold),
        coefficients,
        row.max_streams,
        row.powers,
        manifold.single_pass,
        manifold if row.backward is not None else None,
        about,
        options or {},
    )


def _identity(magnitude: float = 2.0, eps: float = 0.0) -> Connection:
    """As Hy-V4 has it: `pre = sigmoid + eps`, `post = magnitude * sigmoid + eps`."""
    if not (magnitude > 0 and 0 <= eps <= MOST_EPS):
        raise InvalidOptionError(
            f"connection='identity:magnitude={magnitude},eps={eps}': write a positive magnitude and an eps from 0 to "
            f"{MOST_EPS}, for example connection='identity:magnitude=2.0,eps=1e-06'"
        )
    about = PROJECTIONS["identity"].about
    assert about is not None
    manifold = Manifold("identity", magnitude, eps)
    return _manifold("identity", manifold, about, {"magnitude": magnitude, "eps": eps})


def _gated(rank: int = gated.RANK) -> Connection:
    """As Qwen4-exp has it."""
    if rank < 1:
        raise InvalidOptionError(f"connection='gated:rank={rank}': write a rank of at least 1")
    about = About(
        "identity",
        "sigmoid per channel of normed streams, through `rank` numbers; 2 sigmoid",
        "Qwen4-exp",
        "Qwen4-exp (rank=320)",
        "where every branch begins with an RMSNorm",
        forward=(6, 2),
        backward=(13, 3),
    )
    return Connection(
        "gated",
        partial(gated.shapes, rank),
        partial(gated.values, rank),
        gated.coefficients,
        about=about,
        options={"rank": rank},
    )


_RESIDUAL = Connection(
    "residual",
    lambda n, channels: {},
    lambda start: {},
    lambda X, params, *, n, axis: reference.plain_coefficients(X),
    about=About("identity, one stream", "1, 1", "He et al. 2015", "nearly all", forward=(0, 3), backward=(0, 3)),
)
_HYPER = About(
    "learned matrix and a part that depends on the token; nothing bounds the gain over depth",
    "learned vectors and such a part",
    "Zhu et al., arXiv 2409.19606",
    forward=(4, 2),
    backward=(9, 3),
)


def _rows() -> Iterator[Connection]:
    yield _RESIDUAL
    yield Connection("hc", hyper.hyper_shapes, hyper.hyper_values, reference.hyper_coefficients, about=_HYPER)
    about = About("learned matrix", "learned vectors", _HYPER.source, forward=(3, 2), backward=(6, 3))
    yield Connection("hc-static", hyper.static_shapes, hyper.static_values, hyper.static_coefficients, about=about)
    for projection, row in PROJECTIONS.items():
        if row.connection and row.about and row.connection not in _BUILDERS:
            yield _manifold(row.connection, Manifold(projection), row.about)
    about = About("as mhc", "as mhc, but a site is read with pre of the site before", "DeepSeek", "DeepSeek-V4.1")
    yield _manifold("mhc-single-pass", Manifold("sinkhorn", single_pass=True), about)
    yield from (build() for build in _BUILDERS.values())


_BUILDERS: Mapping[str, Callable[..., Connection]] = MappingProxyType({"identity": _identity, "gated": _gated})
"""Connections that take options."""
CONNECTIONS: Mapping[str, Connection] = MappingProxyType({row.name: row for row in _rows()})


def canonical(connection: str) -> str:
    """The one way of writing a connection with its options, `identity` or `identity:magnitude=1.5`.

    Raises:
        InvalidOptionError: see `find`.
    """
    if not isinstance(connection, str):
        raise InvalidOptionError(
            f"connection={connection!r} is no text: write one of {', '.join(map(repr, CONNECTIONS))}"
        )
    row = _row(connection)
    return spell(row.name, row.options, CONNECTIONS[row.name].options)


@cache
def _row(connection: str) -> Connection:
    name, options = parse(connection, {row.name: row.options for row in CONNECTIONS.values()})
    return _BUILDERS[name](**options) if name in _BUILDERS else CONNECTIONS[name]


def find(connection: str, n: int) -> Connection:
    """The row for `connection`; with one stream every connection is the plain residual one.

    Raises:
        InvalidOptionError: a name, an option or a value is not known, n is out of its range, or `residual` is asked for
            more than 1 stream.
    """
    row = _row(connection)
    row = row if n != 1 else _RESIDUAL
    limit = 1 if row is _RESIDUAL else row.max_streams
    if not 1 <= n <= limit:
        raise InvalidOptionError(f"connection={connection!r} takes n from 1 to {limit}, got n={n}: write a smaller n")
    if row.powers and n.bit_count() != 1:
        raise InvalidOptionError(f"connection={connection!r} takes powers of two, got n={n}: write n=2, 4 or 8")
    return row


def manifold_of(connection: str) -> Manifold:
    """What the fused steps of a connection compute.

    Raises:
        InvalidOptionError: a name, an option or a value is not known, or there are no fused steps for it.
    """
    manifold = _row(connection).manifold
    if manifold is None:
        fused = ", ".join(repr(row.name) for row in CONNECTIONS.values() if row.manifold is not None)
        raise InvalidOptionError(f"connection={connection!r} has no fused steps: write one of {fused}")
    return manifold


def why_not_kept(connection: str, n: int) -> str:
    """What keeps `init="preserve"` from keeping the function of a model; "" where it does.

    Raises:
        InvalidOptionError: see `find`.
    """
    row = find(connection, n)
    if row.about.keeps != EXACTLY:
        return f"connection={connection!r} keeps the function only {row.about.keeps}"
    if row.manifold is not None and not initial.writes_one(row.manifold.magnitude, row.manifold.eps):
        least = 1 + initial.WRITE_DEPTH + row.manifold.eps
        return f"connection={connection!r} cannot write as much as a residual add: magnitude must be above {least:g}"
    return ""
