"""The study drawn: loss with bands, gradients, gain over depth and over training."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.study.results import Results, Row
from mhc_compile.wording import count_text

_INK, _QUIET, _RULE = "#1f2430", "#6b7280", "#d9dce1"
_COLORS = {"residual": "#6b7280", "hc": "#c2571a", "mhc": "#0b6e99", "mhc-single-pass": "#3f8f4f",
           "mhc-lite": "#8a4fa3", "identity": "#b8860b", "attention": "#b03060"}  # fmt: skip


def write_drawings(results: Results, rows: Sequence[Row], folder: Path) -> list[Path]:
    """One PNG and SVG for each study; nothing where matplotlib is not installed."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        return []
    paths = []
    for study in dict.fromkeys(run.study for run in results):
        figure = _draw(study, {run: r for run, r in results.items() if run.study == study},
                       [row for row in rows if row.study == study])  # fmt: skip
        for kind in ("png", "svg"):
            path = folder / f"{study}.{kind}"
            figure.savefig(path, dpi=150, facecolor="white")
            paths.append(path)
    return paths


def _draw(study: str, results: Results, rows: Sequence[Row]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13.2, 3.9), layout="constrained")
    loss, less, gradient, gain = figure.subplots(1, 4)
    plain = {run.seed: _smooth(r["losses"]) for run, r in results.items() if run.connection == "residual"}
    for row in rows:
        color = _COLORS.get(row.connection, _INK)
        found = {run.seed: r for run, r in results.items() if run.connection == row.connection}
        losses = {seed: _smooth(r["losses"]) for seed, r in found.items()}
        _band(loss, list(losses.values()), color, row.connection)
        _band(less, [_minus(curve, plain[seed]) for seed, curve in losses.items() if seed in plain], color, "")
        _band(gradient, [_smooth(r["gradients"]) for r in found.values()], color, "")
        if row.gains:
            gain.plot(range(1, len(row.gains) + 1), row.gains, color=color, linewidth=1.8)
    _name(loss, "Training loss", "step", log=False)
    _name(less, "Loss above that of the plain model", "step", log=False)
    _name(gradient, "Norm of the gradient", "step", log=True)
    _name(gain, "Composite gain forward, at the end", "site", log=any(max(r.gains, default=1) > 20 for r in rows))
    gain.axhline(1, color=_INK, linewidth=0.8)
    title = f"{_TITLES.get(study, study)}, {count_text(max(row.seeds for row in rows), 'seed')}\n"
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold", color=_INK)
    handles, labels = loss.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=7, frameon=False, fontsize=9, labelcolor=_QUIET)
    return figure


_TITLES = {"gpt": "Character GPT, 12 sites", "deep": "Deep and narrow, 64 sites", "upcycle": "Plain, then converted"}


def _minus(curve: Sequence[float], other: Sequence[float]) -> list[float]:
    """Runs with the same seed see the same batches, so that the difference is that of the models."""
    return [a - b for a, b in zip(curve, other, strict=True)]


def _band(ax: Any, curves: Sequence[Sequence[float]], color: str, label: str) -> None:
    """The mean over seeds, and from the lowest to the highest."""
    if not curves:
        return
    columns = list(zip(*curves, strict=True))
    steps = range(1, len(columns) + 1)
    ax.fill_between(steps, [min(c) for c in columns], [max(c) for c in columns], color=color, alpha=0.15, linewidth=0)
    ax.plot(steps, [statistics.mean(c) for c in columns], color=color, linewidth=1.5, label=label)


def _smooth(values: Sequence[float]) -> list[float]:
    """Means over the twentieth before each step, so that curves can be told apart."""
    width = max(1, len(values) // 20)
    return [statistics.mean(values[max(0, i - width + 1) : i + 1]) for i in range(len(values))]


def _name(ax: Any, title: str, along: str, *, log: bool) -> None:
    ax.set_title(title, loc="left", fontsize=10, color=_INK)
    ax.set_xlabel(along, fontsize=9, color=_QUIET)
    if log:
        ax.set_yscale("log")
    ax.grid(axis="y", color=_RULE, linewidth=0.6)
    ax.set_axisbelow(True)
    ax.tick_params(color=_RULE, labelcolor=_QUIET, labelsize=8, which="both")
    for side, spine in ax.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(_RULE)
