"""What the runs add up to: loss, gradients, gains; a table, JSON, and bands that a later study is held against."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.study.plan import Run

BAND = 4.0
"""A later study may be so many standard errors away, and `LEAST` more for other machines."""
LEAST = 0.03

Results = Mapping[Run, Mapping[str, Any]]


@dataclass(frozen=True)
class Row:
    """One connection of one study, over seeds; losses in nats per character.

    Attributes:
        study: as in `Run`.
        connection: as in `Run`.
        seeds: how many runs.
        validation: mean loss on text that was kept apart, and `deviation` its standard deviation over seeds.
        deviation: see `validation`; 0 with one seed.
        train: mean loss of the last tenth of the steps.
        gradient: median norm of the gradient in the second half, and `spikes` how much larger the largest is.
        spikes: see `gradient`.
        gain: largest composite gain, forward or backward, at the end; and `gain_ever` in any record.
        gain_ever: see `gain`.
        gains: composite gain forward by depth at the end, mean over seeds.
        parameters: of the model.
    """

    study: str
    connection: str
    seeds: int
    validation: float
    deviation: float
    train: float
    gradient: float
    spikes: float
    gain: float
    gain_ever: float
    gains: tuple[float, ...]
    parameters: int


def rows_of(results: Results) -> list[Row]:
    """One row for each connection of each study."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for run, result in results.items():
        groups.setdefault((run.study, run.connection), []).append(result)
    return [_row(*name, found) for name, found in groups.items()]


def _row(study: str, connection: str, found: Sequence[Mapping[str, Any]]) -> Row:
    validation = [r["validation"] for r in found]
    halves = [r["gradients"][len(r["gradients"]) // 2 :] for r in found]
    median = statistics.mean(map(statistics.median, halves))
    records = [r["records"] for r in found if r["records"]]
    ends = [run[-1]["sites"] for run in records]
    return Row(
        study,
        connection,
        len(found),
        statistics.mean(validation),
        statistics.stdev(validation) if len(found) > 1 else 0.0,
        statistics.mean(statistics.mean(_last_tenth(r["losses"])) for r in found),
        median,
        max(_spike(half) for half in halves),
        max((_largest(sites) for sites in ends), default=1.0),
        max((_largest(record["sites"]) for run in records for record in run), default=1.0),
        tuple(statistics.mean(column) for column in zip(*([s[0] for s in sites] for sites in ends), strict=True)),
        found[0]["parameters"],
    )


def _spike(gradients: Sequence[float]) -> float:
    """The largest gradient of a run over its median."""
    if not all(map(math.isfinite, gradients)):
        return math.inf
    return max(gradients) / statistics.median(gradients)


def _largest(sites: Sequence[Sequence[float]]) -> float:
    """Infinity for a gain that is no number: Python's `max` may lose it."""
    return max(gain if gain == gain else math.inf for site in sites for gain in site[:2])


def _last_tenth(losses: Sequence[float]) -> Sequence[float]:
    return losses[-max(1, len(losses) // 10) :]


def table(rows: Sequence[Row]) -> str:
    """For a terminal."""
    head = f"{'study':8} {'connection':16} {'seeds':>5} {'validation':>18} {'train':>7} {'gradient':>9} " \
           f"{'spikes':>7} {'gain':>8} {'ever':>8} {'parameters':>11}"  # fmt: skip
    lines = [head]
    for r in rows:
        lines.append(
            f"{r.study:8} {r.connection:16} {r.seeds:5} {r.validation:10.4f} ± {r.deviation:.4f} {r.train:7.4f} "
            f"{r.gradient:9.3f} {r.spikes:7.2f} {r.gain:8.3f} {r.gain_ever:8.3f} {r.parameters:11,}"
        )
    return "\n".join(lines)


def to_dict(rows: Sequence[Row], short: bool) -> dict[str, Any]:
    """Rows and, for a later study, the band of each validation loss."""
    bands = {f"{r.study}/{r.connection}": _band(r) for r in rows}
    return {"short": short, "rows": [asdict(row) for row in rows], "bands": bands}


def _band(row: Row) -> list[float]:
    room = BAND * row.deviation / max(1, row.seeds) ** 0.5 + LEAST
    return [row.validation - room, row.validation + room]


def outside(rows: Sequence[Row], bands: Mapping[str, Sequence[float]]) -> list[str]:
    """A sentence for each validation loss that is not in its band."""
    return [
        f"{name}: {row.validation:.4f} is not in {bands[name][0]:.4f} to {bands[name][1]:.4f}"
        for row in rows
        if (name := f"{row.study}/{row.connection}") in bands and not bands[name][0] <= row.validation <= bands[name][1]
    ]
