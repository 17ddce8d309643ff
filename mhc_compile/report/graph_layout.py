"""Where the sites of a segment stand in a drawing: boxes from left to right, wrapped into rows like lines of music."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mhc_compile.report.collapse import Block, Group

ROW_WIDTH = 1080.0
BOX_GAP = 26.0
LINE_HEIGHT = 15.0
CHARACTER = 6.7  # width of one monospace character at the label's size, with some slack for other fonts
_PADDING = 12.0
_BLOCK_PADDING = 10.0
_MAX_CHARACTERS = 26
_BREAK = re.compile(r"\.(?![^{]*\})")  # a dot outside braces


@dataclass(frozen=True)
class Box:
    """One drawn site (or several, collapsed): lines of its label, and its horizontal extent in the row."""

    group: Group
    lines: tuple[str, ...]
    x: float
    width: float

    @property
    def right(self) -> float:
        """Its right edge."""
        return self.x + self.width


@dataclass(frozen=True)
class Frame:
    """A frame round boxes that are repeated `count` times."""

    x: float
    width: float
    count: int


@dataclass(frozen=True)
class Row:
    """One line of the drawing: `width` is what its boxes and frames take."""

    boxes: tuple[Box, ...]
    frames: tuple[Frame, ...]
    width: float

    @property
    def label_lines(self) -> int:
        """Lines of the tallest label, the kind included."""
        return max(len(box.lines) for box in self.boxes) + 1


def rows(blocks: Sequence[Block], width: float = ROW_WIDTH) -> tuple[Row, ...]:
    """Put blocks into as few rows as fit `width`; a block is never broken, a lone wide one may stick out."""
    filled: list[list[Block]] = []
    used = 0.0
    for block in blocks:
        needs = _block_width(block)
        if not filled or used + needs > width:
            filled.append([])
            used = 0.0
        filled[-1].append(block)
        used += needs
    return tuple(_row(line) for line in filled)


def split_label(text: str, limit: int = _MAX_CHARACTERS) -> tuple[str, ...]:
    """Lines of at most `limit` characters, broken before dots where there are some."""
    lines = [""]
    for i, part in enumerate(_BREAK.split(text)):
        piece = part if i == 0 else f".{part}"
        if lines[-1] and len(lines[-1]) + len(piece) > limit:
            lines.append("")
        lines[-1] += piece
    return tuple(line[i : i + limit] for line in lines for i in range(0, max(len(line), 1), limit))


def text_width(lines: Sequence[str]) -> float:
    """Width of the longest line."""
    return max(len(line) for line in lines) * CHARACTER


def _row(blocks: Sequence[Block]) -> Row:
    boxes: list[Box] = []
    frames: list[Frame] = []
    x = 0.0
    for block in blocks:
        start = x
        if block.count > 1:
            frames.append(Frame(start, _block_width(block) - BOX_GAP, block.count))
            x += _BLOCK_PADDING
        for group in block.groups:
            lines = split_label(group.label)
            boxes.append(Box(group, lines, x, _box_width(group)))
            x = boxes[-1].right + BOX_GAP
        x = start + _block_width(block)
    return Row(tuple(boxes), tuple(frames), x - BOX_GAP)


def _box_width(group: Group) -> float:
    return max(96.0, text_width([*split_label(group.label), group.sites[0].kind]) + 2 * _PADDING)


def _block_width(block: Block) -> float:
    boxes = sum(_box_width(group) + BOX_GAP for group in block.groups)
    return boxes + 2 * _BLOCK_PADDING if block.count > 1 else boxes
