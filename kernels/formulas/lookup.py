"""Connections by what a user writes: the row of the table, and what to tell of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from mhc_compile.errors import InvalidOptionError
from mhc_compile.kernels.formulas import initial_values as initial
from mhc_compile.kernels.formulas.about import EXACTLY, NEVER, parse, spell
from mhc_compile.kernels.formulas.manifolds import Manifold
from mhc_compile.kernels.formulas.table import BUILDERS, CONNECTIONS, RESIDUAL, Connection


def canonical(connection: str) -> str:
    """The one way of writing a connection with its options, `identity` or `identity:magnitude=1.5`.

    Raises:
        InvalidOptionError: see `find`.
    """
    if not isinstance(connection, str):
        raise InvalidOptionError(
            f"connection={connection!r} is no text: write one of {', '.join(map(repr, CONNECTIONS))}"
        )
    row = row_of(connection)
    return spell(row.name, row.options, CONNECTIONS[row.name].options)


def row_of(connection: str) -> Connection:
    """The row for `connection`, whatever n is.

    Raises:
        InvalidOptionError: a name, an option or a value is not known.
    """
    # Dynamo traces through what it meets, and warns of a cache.
    if connection in CONNECTIONS:
        return CONNECTIONS[connection]
    return _made(connection) if torch.compiler.is_compiling() else _kept(connection)


def _made(connection: str) -> Connection:
    name, options = parse(connection, {row.name: row.options for row in CONNECTIONS.values()})
    return BUILDERS[name](**options) if name in BUILDERS else CONNECTIONS[name]


_kept = cache(_made)


def find(connection: str, n: int) -> Connection:
    """The row for `connection`; with one stream every connection is the plain residual one.

    Of connections over a list of sources n is the number of these.

    Raises:
        InvalidOptionError: a name, an option or a value is not known, n is out of its range, or `residual` is asked for
            more than 1 stream.
    """
    row = row_of(connection)
    row = row if n != 1 or row.sources is not None else RESIDUAL
    limit = 1 if row is RESIDUAL else row.max_streams
    if not 1 <= n <= limit:
        raise InvalidOptionError(f"connection={connection!r} takes n from 1 to {limit}, got n={n}: write a smaller n")
    if row.powers and n.bit_count() != 1:
        raise InvalidOptionError(f"connection={connection!r} takes powers of two, got n={n}: write n=2, 4 or 8")
    return row


def fixed_streams(connection: str) -> int | None:
    """How many streams a connection has whatever n is; None where n says it.

    Raises:
        InvalidOptionError: a name, an option or a value is not known.
    """
    return row_of(connection).streams


def manifold_of(connection: str) -> Manifold:
    """What the fused steps of a connection compute.

    Raises:
        InvalidOptionError: a name, an option or a value is not known, or there are no fused steps for it.
    """
    manifold = row_of(connection).manifold
    if manifold is None:
        fused = ", ".join(repr(row.name) for row in CONNECTIONS.values() if row.manifold is not None)
        raise InvalidOptionError(f"connection={connection!r} has no fused steps: write one of {fused}")
    return manifold


def operands_of(connection: str, params: Sequence[Tensor], n: int) -> Sequence[Tensor]:
    """What the fused steps take for the parameters of a site: phi, alpha and bias."""
    operands = row_of(connection).operands
    return params if operands is None else operands(params, n)


def sizes_of(connection: str, n: int) -> tuple[int, int, int]:
    """Of a connection with fused steps: how many columns phi has, how many entries alpha, how many columns stat."""
    return _kept_sizes(connection, n) if type(n) is int else _sizes(connection, n)  # a symbol cannot be looked up


def _sizes(connection: str, n: int) -> tuple[int, int, int]:
    manifold = manifold_of(connection)
    columns = manifold.columns(n)
    return columns, len(manifold.parts(n)), columns + manifold.statistics(n)


_kept_sizes = cache(_sizes)


def why_no_paper(connection: str) -> str:
    """Why `init="paper"` has no values for a connection; "" where it has.

    Raises:
        InvalidOptionError: see `find`.
    """
    if row_of(connection).paper is not None:
        return ""
    known = ", ".join(repr(row.name) for row in CONNECTIONS.values() if row.paper is not None)
    return f"connection={connection!r} has no published start for init='paper' ({known} have): write init='random'"


def why_not_kept(connection: str, n: int) -> str:
    """What keeps `init="preserve"` from keeping the function of a model; "" where it does.

    Raises:
        InvalidOptionError: see `find`.
    """
    row = find(connection, n)
    if row.about.keeps == NEVER:
        return f"connection={connection!r} starts as another function, for training from scratch"
    if row.about.keeps != EXACTLY:
        return f"connection={connection!r} keeps the function only {row.about.keeps}"
    if (
        row.manifold is not None
        and not row.manifold.hyper
        and not initial.writes_one(row.manifold.magnitude, row.manifold.eps)
    ):
        least = 1 + initial.WRITE_DEPTH - row.manifold.eps
        return f"connection={connection!r} cannot write as much as a residual add: magnitude must be above {least:g}"
    return ""
