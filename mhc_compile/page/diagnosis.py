"""Figures of a trained checkpoint, as `mhc-compile diagnose --json` prints them: gains over depth, and a table."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from mhc_compile.errors import InvalidOptionError
from mhc_compile.page.panel import Panel
from mhc_compile.report.svg import element, line, text

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 760.0, 220.0, 52.0, 28.0, 12.0
_COLUMNS = {
    "gain_forward": "Gain, forward",
    "gain_backward": "Gain, backward",
    "composite_forward": "Composite gain, forward",
    "composite_backward": "Composite gain, backward",
    "entropy": "Entropy of R",
    "spread": "Spread of streams",
    "similarity": "Similarity",
}


def read_diagnosis(path: str | Path, sites: Collection[str]) -> tuple[Panel, ...]:
    """The panels of a file.

    Args:
        path: what `mhc-compile diagnose TARGET --json` has printed.
        sites: keys of the sites of the model that the page is about.

    Raises:
        InvalidOptionError: it cannot be read, is something else, or is about another model.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        keys = [site["key"] for site in found["sites"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidOptionError(
            f"{str(path)!r} is not what diagnose prints ({type(error).__name__}): "
            "write mhc-compile diagnose TARGET --checkpoint FILE --json > figures.json"
        ) from error
    strange = [key for key in keys if key not in sites]
    if strange or not keys:
        named = f"it names the site {strange[0]!r}, which this one does not have" if strange else "it has no sites"
        raise InvalidOptionError(f"{str(path)!r} is about another model: {named}")
    return panels_of(found)


def panels_of(found: Mapping[str, Any]) -> tuple[Panel, ...]:
    """The panels of a diagnosis, as plain data: alarms and gains."""
    sites: Sequence[Mapping[str, Any]] = found["sites"]
    alarms = tuple(str(alarm["sentence"]) for alarm in found.get("alarms", ())) or ("No alarm.",)
    names = [name for name in _COLUMNS if any(name in site for site in sites)]
    rows = tuple((str(site["key"]), *(_number(site.get(name)) for name in names)) for site in sites)
    columns = ("Site", *(_COLUMNS[name] for name in names))
    curves = {way: [site.get(f"composite_{way}") for site in sites] for way in ("forward", "backward")}
    return (Panel("Gain over depth", columns, rows, alarms, (draw_gains(curves),)),)


def _number(value: Any) -> str:
    return "not finite" if value is None else f"{float(value):.3g}"


def draw_gains(curves: Mapping[str, Sequence[float | None]]) -> str:
    """Composite gains over depth on a logarithmic scale, as SVG; what is not finite leaves a gap."""
    known = [float(v) for values in curves.values() for v in values if v is not None and v > 0] or [1.0]
    low, high = math.floor(math.log10(min(known) / 1.5)), math.ceil(math.log10(max(known) * 1.5))
    parts = [element("title", "Composite gain over depth, logarithmic")]
    for power in range(low, high + 1):
        y = _height(10.0**power, low, high)
        parts += [line(_LEFT, y, _WIDTH, y, "grid"), text(_LEFT - 8, y + 4, f"{10.0**power:g}", "tick", "end")]
    for name, values in curves.items():
        parts += [element("path", d=d, class_=f"curve {name}") for d in _paths(values, low, high)]
    middle = (_LEFT + _WIDTH) / 2
    legend = "sites, from the first to the last · solid: forward · dashed: backward"
    parts.append(text(middle, _HEIGHT - 6, legend, "tick", "middle"))
    box = f"0 0 {_WIDTH:.0f} {_HEIGHT:.0f}"
    return element("svg", *parts, viewBox=box, role="img", aria_label="Composite gain over depth", class_="chart")


def _height(value: float, low: int, high: int) -> float:
    share = (math.log10(value) - low) / (high - low)
    return _TOP + (1 - share) * (_HEIGHT - _TOP - _BOTTOM)


def _paths(values: Sequence[float | None], low: int, high: int) -> list[str]:
    """One path for each run of finite values."""
    step = (_WIDTH - _LEFT - 8) / max(1, len(values) - 1)
    runs: list[list[str]] = [[]]
    for i, value in enumerate(values):
        if value is None or value <= 0:
            runs.append([])
        else:
            runs[-1].append(f"{_LEFT + 4 + i * step:.1f} {_height(float(value), low, high):.1f}")
    return ["M" + " L".join(run if len(run) > 1 else run * 2) for run in runs if run]
