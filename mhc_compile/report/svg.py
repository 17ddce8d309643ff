"""The few SVG elements the drawing needs, as strings, with every text escaped."""

from __future__ import annotations

import re
from xml.sax.saxutils import escape, quoteattr

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def element(tag: str, *children: str, **attributes: object) -> str:
    """An element; `class_` is written `class`, `stroke_width` is written `stroke-width`, numbers with one decimal."""
    written = "".join(
        f" {name.rstrip('_').replace('_', '-')}={quoteattr(_value(value))}" for name, value in attributes.items()
    )
    return f"<{tag}{written}>{''.join(children)}</{tag}>" if children else f"<{tag}{written}/>"


def text(x: float, y: float, content: str, class_: str, anchor: str = "start") -> str:
    """One line of text whose baseline starts (or ends, or has its middle) at the point."""
    return element("text", clean(content), x=x, y=y, class_=class_, text_anchor=anchor)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    """A straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def curve(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    """A curve between two points that starts and ends horizontally."""
    middle = _value((x1 + x2) / 2)
    d = f"M{_value(x1)} {_value(y1)} C{middle} {_value(y1)} {middle} {_value(y2)} {_value(x2)} {_value(y2)}"
    return element("path", d=d, class_=class_)


def rect(x: float, y: float, width: float, height: float, class_: str, title: str = "", radius: float = 5) -> str:
    """A rectangle with round corners, and a tooltip if there is a title."""
    tip = [element("title", clean(title))] if title else []
    return element("rect", *tip, x=x, y=y, width=width, height=height, rx=radius, class_=class_)


def dot(x: float, y: float, radius: float, class_: str) -> str:
    """A disc."""
    return element("circle", cx=x, cy=y, r=radius, class_=class_)


def clean(content: str) -> str:
    """Escaped text, without the control characters XML forbids."""
    return escape(_NOT_XML.sub("\N{REPLACEMENT CHARACTER}", content))


def _value(value: object) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else _NOT_XML.sub("", str(value))
