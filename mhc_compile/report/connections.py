"""The table of connections: what each computes, costs and keeps, as data and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from mhc_compile.errors import InvalidOptionError
from mhc_compile.kernels.formulas.connections import CONNECTIONS, find, parameter_count, parameter_shapes

FORMULA = "u = sum_i pre_i X_i;  X'_i = sum_j R_ij X_j + post_i f(u)"
OVER_SOURCES = "u = sum_k w_k s_k;  s = f(u), s + f(u) (attention), u + f(u) (dense)"
NAMES = ("Connection", "R", "pre, post", "Parameters", "Forward", "Backward", "Kept at the start", "Source", "Ships in")


@dataclass(frozen=True)
class Row:
    """One connection, at some n and C.

    Attributes:
        name: what a user writes, with its options and their defaults.
        mixing: R.
        gates: pre and post.
        parameters: new scalars of one site; None where the connection does not take n streams.
        forward: elements that one interior site moves per token, in units of C.
        backward: the same of the backward.
        keeps: whether `init="preserve"` keeps the function of a model, or where.
        source: whose it is.
        ships: models that have it.
    """

    name: str
    mixing: str
    gates: str
    parameters: int | None
    forward: int | None
    backward: int | None
    keeps: str
    source: str
    ships: str

    def cells(self) -> list[str]:
        """As text, in the order of `NAMES`."""
        numbers = ("" if v is None else f"{v:,}" for v in (self.parameters, self.forward, self.backward))
        return [self.name, self.mixing, self.gates, *numbers, self.keeps, self.source, self.ships]


def rows(n: int = 4, channels: int = 1024) -> list[Row]:
    """Every connection, the plain one first.

    Args:
        n: number of streams to count for.
        channels: number of channels C.

    Raises:
        InvalidOptionError: n or channels is below 1.
    """
    if n < 1 or channels < 1:
        raise InvalidOptionError(f"n={n}, channels={channels}: write numbers of at least 1")
    return list(_rows(n, channels))


def _rows(n: int, channels: int) -> Iterator[Row]:
    for name, connection in CONNECTIONS.items():
        about = connection.about
        streams = n if connection.sources else connection.streams or n
        options = ",".join(f"{key}={value}" for key, value in connection.options.items())
        counts = _counts(name, streams, channels)
        spelled = f"{name}:{options}" if options else name
        yield Row(spelled, about.mixing, about.gates, *counts, about.keeps, about.source, about.ships)


def _counts(name: str, n: int, channels: int) -> tuple[int | None, int | None, int | None]:
    try:
        about = find(name, n).about
    except InvalidOptionError:
        return None, None, None
    forward, backward = (slope * n + rest for slope, rest in (about.forward, about.backward))
    return parameter_count(parameter_shapes(name, n, channels)), forward, backward


def to_dict(n: int, channels: int) -> dict[str, Any]:
    """For `--json`."""
    return {
        "formula": FORMULA,
        "formula_over_sources": OVER_SOURCES,
        "n": n,
        "channels": channels,
        "connections": [asdict(row) for row in rows(n, channels)],
    }


def markdown(n: int = 4, channels: int = 1024) -> str:
    """The table as documents have it."""
    lines = [NAMES, ["---"] * len(NAMES), *([f"`{row.name}`", *row.cells()[1:]] for row in rows(n, channels))]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
