"""Where the records of a training go: JSON lines, writers of TensorBoard, runs of Weights and Biases, functions."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mhc_compile.diagnostics.data import Diagnosis
from mhc_compile.errors import InvalidOptionError

Write = Callable[[Any], None]
"""Takes a `Record`."""

_SITE = ("gain_forward", "gain_backward", "composite_forward", "composite_backward", "entropy", "from_identity",
         "from_uniform", "spread", "similarity")  # fmt: skip
_SEGMENT = ("composite_forward", "composite_backward", "spread", "moved")


def writer_of(place: Any) -> Write:
    """What writes a record to a path, to an object with `add_scalar` or `log`, or by a function.

    Raises:
        InvalidOptionError: it is none of these.
    """
    if isinstance(place, (str, os.PathLike)):
        return json_lines(place)
    if hasattr(place, "add_scalar"):
        return tensorboard(place)
    if hasattr(place, "log"):
        return wandb(place)
    if callable(place):
        found: Write = place
        return found
    raise InvalidOptionError(
        f"to={place!r}: write a path such as 'run.jsonl', a SummaryWriter of TensorBoard, a run of wandb, or a function"
    )


def json_lines(path: str | os.PathLike[str]) -> Write:
    """Appends one line per record, `{"step": ..., "sites": [...], ...}`, and creates the folder."""
    file = Path(path)

    def write(record: Any) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"step": record.step, **record.diagnosis.to_dict()})
        with file.open("a", encoding="utf-8") as lines:
            lines.write(line + "\n")

    return write


def tensorboard(writer: Any) -> Write:
    """Scalars such as `mhc/segment_0/composite_forward`, by `writer.add_scalar(name, value, step)`."""

    def write(record: Any) -> None:
        for name, value in scalars(record.diagnosis):
            writer.add_scalar(name, value, record.step)

    return write


def wandb(run: Any) -> Write:
    """The same scalars in one `run.log({...}, step=step)`."""

    def write(record: Any) -> None:
        run.log(dict(scalars(record.diagnosis)), step=record.step)

    return write


def scalars(diagnosis: Diagnosis) -> Iterator[tuple[str, float]]:
    """Names and numbers for a tool that draws curves; values that are not finite are left out, and counted."""
    found = [
        *((f"mhc/segment_{s.index}/{name}", getattr(s, name)) for s in diagnosis.segments for name in _SEGMENT),
        *((f"mhc/{s.key}/{name}", getattr(s, name)) for s in diagnosis.sites for name in _SITE),
        ("mhc/not_finite", float(sum(bool(s.trouble) for s in diagnosis.sites))),
        ("mhc/alarms", float(len(diagnosis.alarms))),
    ]
    yield from ((name, float(value)) for name, value in found if math.isfinite(value))
