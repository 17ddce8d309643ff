"""The figures drawn: gain over depth, R as heat maps, streams over depth. Needs the extra `mhc-compile[plots]`."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mhc_compile.diagnostics.data import Diagnosis, SiteFigures
from mhc_compile.errors import MissingPackageError

FORMATS = ("png", "svg")
MOST_MAPS = 48
"""Heat maps in one picture; of more sites, so many are drawn, evenly spaced."""

_INK, _QUIET, _RULE = "#1f2430", "#6b7280", "#d9dce1"
_FORWARD, _BACKWARD = "#0b6e99", "#c2571a"
_STREAMS = ("#0b6e99", "#c2571a", "#3f8f4f", "#8a4fa3", "#b8860b", "#5a6b7b", "#b03060", "#2f4b9c")
_LONG = 20.0  # a ratio of gains from which on they are drawn on a logarithmic axis


def check_matplotlib() -> None:
    """Say early that nothing can be drawn.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(
            f"plots need matplotlib, whose import fails ({error}): run `pip install 'mhc-compile[plots]'`"
        ) from error


def write_plots(diagnosis: Diagnosis, folder: str | os.PathLike[str], formats: Sequence[str] = FORMATS) -> list[Path]:
    """Draw a diagnosis into `gain`, `mixing` and `streams` files of a folder, which is created; the paths.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    check_matplotlib()
    Path(folder).mkdir(parents=True, exist_ok=True)
    written = []
    drawings: dict[str, Callable[[Diagnosis], Any]] = {
        "gain": draw_gain,
        "mixing": draw_mixing,
        "streams": draw_streams,
    }
    for name, draw in drawings.items():
        figure = draw(diagnosis)
        for kind in formats:
            path = Path(folder, f"{name}.{kind}")
            figure.savefig(path, dpi=150, facecolor="white")
            written.append(path)
    return written


def draw_gain(diagnosis: Diagnosis) -> Any:
    """Composite gains over depth, one row for each segment, with those of single R behind them."""
    figure, axes = _rows(diagnosis, 2.6)
    for ax, (index, sites) in zip(axes, _segments(diagnosis).items(), strict=True):
        for way, color in (("forward", _FORWARD), ("backward", _BACKWARD)):
            single, composite = (_curve(sites, f"{what}_{way}") for what in ("gain", "composite"))
            ax.plot(*single, color=color, linewidth=1, alpha=0.45, linestyle=(0, (2, 2)))
            ax.plot(*composite, color=color, linewidth=2, marker="o", markersize=3.5, label=way)
        _limits(ax, [getattr(s, f"composite_{w}") for s in sites for w in ("forward", "backward")])
        _name(ax, f"Segment {index}", "gain", sites, last=ax is axes[-1])
    _legend(figure, axes[0], "Gain over depth", "lines with dots: products of R, forward from the entry to a site, "
            "backward from the end to it; dashed: R alone")  # fmt: skip
    return figure


def draw_mixing(diagnosis: Diagnosis) -> Any:
    """R of each site, the mean over tokens: rows are output streams, columns input streams."""
    from matplotlib.figure import Figure

    sites = _evenly(diagnosis.sites, MOST_MAPS)
    columns = min(8, len(sites))
    rows = math.ceil(len(sites) / columns)
    figure = Figure(figsize=(max(1.25 * columns + 1.1, 5.0), 1.5 * rows + 1.15), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    values = [v for s in sites for row in s.mixing for v in row if math.isfinite(v)]
    low, high = min([*values, 0.0]), max([*values, 1.0])
    signed = low < -1e-3
    bound = max(-low, high)
    style = {"cmap": "RdBu", "vmin": -bound, "vmax": bound} if signed else {"cmap": "Blues", "vmin": 0, "vmax": high}
    for ax, site in zip(axes.flat, sites, strict=False):
        image = ax.imshow(site.mixing, **style)
        _squares(ax, site)
    for ax in axes.flat[len(sites) :]:
        ax.set_axis_off()
    bar = figure.colorbar(image, ax=axes, shrink=min(1.0, 2.2 / rows), aspect=14, pad=0.015)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, color=_QUIET, labelcolor=_QUIET)
    some = f", {len(sites)} of {len(diagnosis.sites)} sites" if len(sites) < len(diagnosis.sites) else ""
    _title(figure, "R of each site", f"mean over tokens{some}; rows: output stream, columns: input stream")
    return figure


def draw_streams(diagnosis: Diagnosis) -> Any:
    """How large each stream is in front of each site, and how far streams differ."""
    figure, axes = _rows(diagnosis, 2.6, columns=2)
    for (left, right), (index, sites) in zip(_pairs(axes), _segments(diagnosis).items(), strict=True):
        for i in range(diagnosis.n):
            color = _STREAMS[i % len(_STREAMS)]
            left.plot(*_curve(sites, "stream_rms", i), color=color, linewidth=1.8, label=f"stream {i + 1}")
            right.plot(*_curve(sites, "read_share", i), color=color, linewidth=1.8)
        right.plot(*_curve(sites, "spread"), color=_INK, linewidth=1.4, linestyle=(0, (4, 2)), label="spread")
        _name(left, f"Segment {index}", "root mean square", sites, last=left is axes[-2])
        _name(right, "", "share of the read; spread", sites, last=right is axes[-1])
        left.set_ylim(bottom=0)
        right.set_ylim(bottom=0)
    sizes, shares = "left: their size in front of a site", "right: the share of each in what the branch reads"
    _legend(figure, axes[0], "Streams over depth", f"{sizes}; {shares}; dashed: how far streams are from their mean")
    return figure


def _curve(sites: Sequence[SiteFigures], name: str, stream: int | None = None) -> tuple[list[float], list[float]]:
    """Depth and a figure, with a gap where a site does not follow the one in front of it: a tower of its own begins."""
    depth: list[float] = []
    values: list[float] = []
    for i, site in enumerate(sites):
        if i and site.before != sites[i - 1].key:
            depth.append(i + 0.5)
            values.append(math.nan)
        figure = getattr(site, name)
        depth.append(i + 1)
        values.append(figure if stream is None else figure[stream])
    return depth, values


def _rows(diagnosis: Diagnosis, height: float, columns: int = 1) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    count = len(_segments(diagnosis))
    figure = Figure(figsize=(8.2 if columns == 1 else 10.4, height * count + 1.5), layout="constrained")
    axes = figure.subplots(count, columns, squeeze=False)
    return figure, list(axes.flat)


def _pairs(axes: Sequence[Any]) -> list[tuple[Any, Any]]:
    return list(zip(axes[::2], axes[1::2], strict=True))


def _segments(diagnosis: Diagnosis) -> dict[int, list[SiteFigures]]:
    found: dict[int, list[SiteFigures]] = {}
    for site in diagnosis.sites:
        found.setdefault(site.segment, []).append(site)
    return dict(sorted(found.items()))


def _name(ax: Any, title: str, quantity: str, sites: Sequence[SiteFigures], *, last: bool) -> None:
    """Names at some of the sites, so that they never overlap; quiet axes."""
    ax.set_title(title, loc="left", fontsize=10, color=_INK)
    ax.set_ylabel(quantity, fontsize=9, color=_QUIET)
    shown = _evenly(list(enumerate(sites, 1)), 12)
    ax.set_xticks([i for i, _ in shown], [s.key for _, s in shown], rotation=35, ha="right", fontsize=7.5)
    ax.set_xlim(0.5, len(sites) + 0.5)
    ax.tick_params(color=_RULE, labelcolor=_QUIET, labelsize=8)
    ax.grid(axis="y", color=_RULE, linewidth=0.6)
    ax.set_axisbelow(True)
    for side, spine in ax.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(_RULE)


def _limits(ax: Any, gains: Sequence[float]) -> None:
    """One is always in sight; a logarithmic axis where gains differ by more than `_LONG`."""
    known = [g for g in gains if math.isfinite(g)]
    low, high = min([*known, 1.0]), max([*known, 1.0])
    ax.axhline(1, color=_INK, linewidth=0.8)
    if low > 0 and high / low > _LONG:
        ax.set_yscale("log")
    else:
        room = max(0.12 * (high - low), 0.05)
        ax.set_ylim(max(0.0, low - room), high + room)


def _squares(ax: Any, site: SiteFigures) -> None:
    label = site.key if len(site.key) <= 21 else f"…{site.key[-20:]}"
    ax.set_title(label, fontsize=7, color="#b3261e" if site.trouble else _INK)
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_color(_RULE)


def _legend(figure: Any, ax: Any, title: str, explanation: str) -> None:
    _title(figure, title, explanation)
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=8, frameon=False, fontsize=8.5, labelcolor=_QUIET)


def _title(figure: Any, title: str, explanation: str) -> None:
    figure.suptitle(f"{title}\n\n", x=0.01, ha="left", fontsize=13, color=_INK, fontweight="bold")
    figure.text(
        0.011, 0.985 - 0.34 / figure.get_figheight(), explanation, ha="left", va="top", fontsize=8.5, color=_QUIET
    )


def _evenly(items: Sequence[Any], at_most: int) -> list[Any]:
    if len(items) <= at_most:
        return list(items)
    return [items[i * (len(items) - 1) // (at_most - 1)] for i in range(at_most)]
