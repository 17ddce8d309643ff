"""Draw the segments of a plan as SVG: an entry, n parallel streams with sites on them, readouts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mhc_compile.passes.plan.data import Plan, Readout, Segment
from mhc_compile.report.collapse import fold_blocks
from mhc_compile.report.graph_layout import LINE_HEIGHT, Box, Row, rows, text_width
from mhc_compile.report.svg import curve, dot, element, line, rect, text
from mhc_compile.report.text_file import check_file, write_text
from mhc_compile.wording import TIMES, count_text, entry_text, names_text, shape_text, short_location, state_text

_MARGIN, _TITLE, _LEGEND = 32.0, 92.0, 64.0
_STREAM_GAP = 7.0
_DROP = 24.0  # from the streams down to the boxes
_ABOVE = 26.0  # room above the streams of a row for frames and readout marks
_FAN = 44.0  # length over which one value spreads into streams
_ROW_GAP, _SEGMENT_GAP = 26.0, 34.0

_STYLE = """
text { font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; font-size: 11px; fill: #1f2937 }
.title { font-size: 15px; font-weight: bold } .heading { font-size: 12px; font-weight: bold } .quiet { fill: #6b7280 }
.stream { stroke: #2b6cb0; stroke-width: 1.6; fill: none } .more { stroke-dasharray: 2 3 }
.wire { stroke: #6b7280; stroke-width: 1.2; fill: none } .tap { fill: #374151 } .mix { fill: #dbeafe; stroke: #2b6cb0 }
.site { fill: #ffffff; stroke: #6b7280 } .frame { fill: #f3f4f6; stroke: #d1d5db }
.badge { fill: #2b6cb0; font-weight: bold }
.entry { fill: #e6f4ea; stroke: #4d8a5f } .readout { fill: #fdf0dc; stroke: #b7791f } .exit { fill: #b7791f }
.paper { fill: #ffffff } .rule { stroke: #e5e7eb }
"""


@dataclass(frozen=True)
class _Band:
    """The drawing of one segment: elements with y from 0, and the room they take."""

    elements: tuple[str, ...]
    width: float
    height: float


def check_path(path: str | Path) -> Path:
    """The path of a drawing that can be written.

    Raises:
        InvalidOptionError: it does not end in `.svg`, its directory does not exist, or it is a directory.
    """
    return check_file(path, "drawing", (".svg",), "graph.svg")


def write_svg(plan: Plan, path: str | Path) -> None:
    """Write the drawing of a plan.

    Raises:
        InvalidOptionError: the path cannot be written, or does not end in `.svg`.
    """
    write_text(check_path(path), to_svg(plan))


def to_svg(plan: Plan) -> str:
    """The drawing of a plan as SVG."""
    bands = [_segment(plan, segment) for segment in plan.segments]
    width = max([band.width for band in bands] + [860.0]) + 2 * _MARGIN
    parts, y = [*_heading(plan)], _TITLE
    for band in bands:
        parts.append(element("g", *band.elements, transform=f"translate({_MARGIN:.0f} {y:.0f})"))
        y += band.height + _SEGMENT_GAP
    parts.append(element("g", *_legend(plan, width - 2 * _MARGIN), transform=f"translate({_MARGIN:.0f} {y:.0f})"))
    size = {"width": width, "height": y + _LEGEND, "viewBox": f"0 0 {width:.0f} {y + _LEGEND:.0f}"}
    paper = rect(0, 0, width, y + _LEGEND, "paper", radius=0)
    svg = element("svg", element("style", _STYLE), paper, *parts, xmlns="http://www.w3.org/2000/svg", **size)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{svg}\n'


def _heading(plan: Plan) -> Iterator[str]:
    sites, segments = count_text(len(plan.sites), "site"), count_text(len(plan.segments), "segment")
    yield text(_MARGIN, 40, f"{sites} in {segments}", "title")
    facts = f"{plan.connection} · n = {plan.n} · reduce {plan.reduce} · {plan.parameters:,} new parameters"
    yield text(_MARGIN, 60, facts, "quiet")


def _segment(plan: Plan, segment: Segment) -> _Band:
    lines = rows(fold_blocks([plan.site(key) for key in segment.sites]))
    start = text_width([segment.entry]) + 20 + _FAN
    marked, ends = _split_readouts(segment)
    title = f"segment {segment.index}"
    elements = [text(0, 0, title, "heading"), text(text_width([title]) + 24, 0, _remark(plan, segment), "quiet")]
    elements += _entry(plan, segment, start, 8 + _ABOVE)
    y = 8.0
    for row in lines:
        last = row is lines[-1]
        elements += _row(plan, row, marked, start, y, last)
        if last:
            elements += _ends(plan, ends, start + row.width + 10, y + _ABOVE)
        y += _ABOVE + _span(plan) + _DROP + row.label_lines * LINE_HEIGHT + 12 + _ROW_GAP
    right = start + max([row.width for row in lines]) + _FAN + text_width([_ends_text(ends)]) + 20
    return _Band(tuple(elements), right, y - _ROW_GAP)


def _split_readouts(segment: Segment) -> tuple[dict[str, list[str]], list[Readout]]:
    """Nodes read out behind a site that is not the last one, by its key, and the readouts at the end."""
    marked: dict[str, list[str]] = {}
    ends = []
    for readout in segment.readouts:
        key = readout.key.rpartition(".readout")[0]  # a readout is named after the site before it
        if key in segment.sites[:-1]:
            marked.setdefault(key, []).append(readout.node)
        else:
            ends.append(readout)
    return marked, ends


def _remark(plan: Plan, segment: Segment) -> str:
    lifted = f" · {count_text(len(segment.lifts), 'lifted op')}" if segment.lifts else ""
    return f"{count_text(len(segment.sites), 'site')}{lifted} · {state_text(plan, segment)}"


def _span(plan: Plan) -> float:
    return (plan.n - 1) * _STREAM_GAP


def _levels(plan: Plan, top: float) -> list[float]:
    return [top + i * _STREAM_GAP for i in range(plan.n)]


def _row(plan: Plan, row: Row, marked: dict[str, list[str]], start: float, y: float, last: bool) -> Iterator[str]:
    top = y + _ABOVE
    for frame in row.frames:
        height = _ABOVE + _span(plan) + _DROP + row.label_lines * LINE_HEIGHT + 16
        yield rect(start + frame.x, y + 4, frame.width, height, "frame", radius=8)
        yield text(start + frame.x + 8, y + 19, f"{TIMES}{frame.count}", "badge")
    for level in _levels(plan, top):
        yield line(start - 10, level, start + row.width + 10, level, "stream")
        if not last:
            yield line(start + row.width + 10, level, start + row.width + 40, level, "stream more")
    for box in row.boxes:
        yield from _site(plan, box, start, top)
        found = [node for site in box.group.sites for node in marked.get(site.key, ())]
        if found:
            yield from _mark(start + box.right - 2, top, found)


def _site(plan: Plan, box: Box, start: float, top: float) -> Iterator[str]:
    """Read on the left, the branch below, write on the right, and the mixing of the streams between them."""
    bottom, x = top + _span(plan), start + box.x
    read, write, box_top = x + 14, x + box.width - 14, bottom + _DROP
    site = box.group.sites[0]
    tip = f"{box.group.label}\n{site.branch_summary}\n{shape_text(site.shape)}\n{short_location(site.location)}"
    yield line(read, top, read, box_top, "wire")
    yield line(write, box_top, write, top, "wire")
    if plan.n > 1 and plan.connection.partition(":")[0] not in ("identity", "gated"):
        yield rect(x + box.width / 2 - 9, top - 5, 18, _span(plan) + 10, "mix", radius=3)
    for level in _levels(plan, top):
        yield dot(read, level, 2.4, "tap")
        yield dot(write, level, 2.4, "tap")
    yield rect(x, box_top, box.width, (len(box.lines) + 1) * LINE_HEIGHT + 10, "site", tip)
    for i, content in enumerate((*box.lines, site.kind)):
        style = "quiet" if i == len(box.lines) else "key"
        yield text(x + box.width / 2, box_top + 16 + i * LINE_HEIGHT, content, style, "middle")


def _entry(plan: Plan, segment: Segment, start: float, top: float) -> Iterator[str]:
    middle, width = top + _span(plan) / 2, start - _FAN
    for level in _levels(plan, top):
        yield curve(width, middle, start - 10, level, "stream")
    yield rect(0, middle - 12, width, 24, "entry", f"entry: {segment.entry}", radius=12)
    yield text(width / 2, middle + 4, segment.entry, "key", "middle")


def _ends(plan: Plan, readouts: list[Readout], x: float, top: float) -> Iterator[str]:
    """The streams become one value, and the readouts are listed."""
    middle, tip = top + _span(plan) / 2, x + _FAN - 10
    for level in _levels(plan, top):
        yield curve(x, level, tip, middle, "stream")
    content = _ends_text(readouts)
    width = text_width([content]) + 20
    full = "readouts: " + ", ".join(f"{r.node} for {', '.join(r.users)}" for r in readouts)
    yield rect(tip, middle - 12, width, 24, "readout", full, radius=12)
    yield text(tip + width / 2, middle + 4, content, "key", "middle")


def _ends_text(readouts: list[Readout]) -> str:
    return names_text([r.node for r in readouts], at_most=2) or "not read out"


def _mark(x: float, top: float, nodes: list[str]) -> Iterator[str]:
    """A value that is read out between two sites."""
    yield line(x, top, x, top - 14, "wire")
    tip = element("title", f"read out: {names_text(nodes)}")
    yield element(
        "path",
        tip,
        d=f"M{x - 4:.1f} {top - 12:.1f} L{x + 4:.1f} {top - 12:.1f} L{x:.1f} {top - 19:.1f} Z",
        class_="exit",
    )


def _legend(plan: Plan, width: float) -> Iterator[str]:
    yield line(0, 0, width, 0, "rule")
    yield rect(0, 18, 22, 12, "entry", radius=6)
    yield text(30, 28, f"entry: one value {entry_text(plan)}", "quiet")
    yield rect(0, 40, 22, 12, "readout", radius=6)
    yield element("path", d="M356 52 L364 52 L360 44 Z", class_="exit")
    yield text(30, 50, "readout: streams become one value", "quiet")
    yield text(372, 50, "readout between sites", "quiet")
    yield line(360, 16, 360, 32, "wire") + dot(360, 24, 2.4, "tap")
    yield text(372, 28, "read (left) and write (right) of a branch", "quiet")
    yield rect(676, 18, 12, 12, "mix", radius=3)
    yield text(696, 28, "mixing of streams", "quiet")
    yield text(676, 50, f"{TIMES}k", "badge") + text(696, 50, "repeated blocks", "quiet")
