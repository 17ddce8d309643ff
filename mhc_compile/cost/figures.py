"""An estimate as frozen data. Every number carries its unit and the formula that it comes from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from mhc_compile.cost.devices import Device

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Figure:
    """One estimated number: `unit` is `s`, `B`, `FLOP`, `%` or ``, `formula` says how it was reached."""

    value: float
    unit: str
    formula: str


@dataclass(frozen=True)
class Scheme:
    """One way to compute the same connection: what its kernels move in a step, and how long the step gets."""

    name: str
    bytes: Figure
    seconds: Figure
    overhead: Figure


@dataclass(frozen=True)
class Row:
    """One number of streams and one connection.

    Attributes:
        n: number of streams.
        connection: as in `Config`.
        parameters: new ones.
        flops: of a step, beyond the plain model.
        kept: bytes that the forward keeps for the backward beyond the plain model.
        kept_recomputed: the same under `recompute="auto"`; None where a connection has no steps that restore streams.
        memory: parameters, gradients, optimizer and what is kept, of the whole model.
        memory_recomputed: the same under `recompute="auto"`.
        seconds_recomputed: of a step under `recompute="auto"`, with this project's kernels as timed.
        schemes: one kernel per formula, the paper's kernels, this project's by their bytes and as timed.
    """

    n: int
    connection: str
    parameters: Figure
    flops: Figure
    kept: Figure
    kept_recomputed: Figure | None
    memory: Figure
    memory_recomputed: Figure | None
    seconds_recomputed: Figure | None
    schemes: tuple[Scheme, ...]

    @property
    def ours(self) -> Scheme:
        """This project's kernels, as timed."""
        return self.schemes[-1]


@dataclass(frozen=True)
class PlainStep:
    """A training step of the model as it is: forward, backward and AdamW."""

    parameters: Figure
    flops: Figure
    bytes: Figure
    kept: Figure
    memory: Figure
    seconds: Figure


@dataclass(frozen=True)
class Estimate:
    """What hyper-connections would cost on one device. Nothing in it was measured on the model itself.

    Attributes:
        device: with its speeds and where they come from.
        dtype: of parameters and activations.
        tokens: of a step, at the first site.
        sites: number of residual connections that would be rewritten.
        plain: the model as it is.
        rows: one for each number of streams and connection.
        notes: what a reader should know.
    """

    device: Device
    dtype: str
    tokens: int
    sites: int
    plain: PlainStep
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    def row(self, n: int, connection: str = "mhc") -> Row:
        """The row of these; KeyError if there is none."""
        found = next((r for r in self.rows if (r.n, r.connection) == (n, connection)), None)
        if found is None:
            raise KeyError((n, connection))
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers; every figure is `{"value", "unit", "formula"}`."""
        return {"schema_version": SCHEMA_VERSION, "estimate": True, **asdict(self)}

    def to_json(self, indent: int | None = 2) -> str:
        """The estimate as JSON, see docs/cli.md."""
        return json.dumps(self.to_dict(), indent=indent)

    def formulas(self) -> Iterator[tuple[str, str]]:
        """Every quantity with its formula, each once, in the order of the table."""
        row = self.rows[0]
        for name, figure in (*vars(self.plain).items(),):
            yield f"plain {name}", figure.formula
        for name in (
            "parameters",
            "flops",
            "kept",
            "kept_recomputed",
            "memory",
            "memory_recomputed",
            "seconds_recomputed",
        ):
            figure = next((f for r in self.rows if (f := getattr(r, name)) is not None), None)
            if figure is not None:
                yield f"{name.replace('_recomputed', ', recomputed')}", figure.formula
        for scheme in row.schemes:
            yield f"bytes, {scheme.name}", scheme.bytes.formula
        yield "seconds", row.ours.seconds.formula
        yield "overhead", row.ours.overhead.formula
