"""HTML elements as strings, with every text escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from mhc_compile.report.svg import clean

_VOID = frozenset({"input", "br", "meta", "link"})


def tag(element: str, /, *children: str, **attributes: object) -> str:
    """An element around children that are HTML already; see `words` for text.

    `class_` is written `class`, `aria_label` is written `aria-label`; True is an attribute without a value, None none.
    """
    opened = f"<{element}{''.join(_attribute(key, value) for key, value in attributes.items())}>"
    return opened if element in _VOID else f"{opened}{''.join(children)}</{element}>"


def _attribute(key: str, value: object) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(str(value))}"'


def words(text: object) -> str:
    """Escaped text."""
    return clean(str(text))


def code(text: object) -> str:
    """A name from the program; long ones may break behind a dot."""
    return tag("code", words(text).replace(".", ".<wbr>"))


def listing(sentences: Iterable[str]) -> str:
    """A list of sentences, "" if there are none."""
    items = [tag("li", words(sentence)) for sentence in sentences]
    return tag("ul", *items, class_="sentences") if items else ""


def table(
    caption: str, heads: Sequence[str], rows: Iterable[str], *, numbers: Iterable[str] = (), sortable: bool = False
) -> str:
    """A table in a region that scrolls sideways by itself, on a phone too.

    Args:
        caption: what it shows; read out by a screen reader and the name of the region.
        heads: names of the columns.
        rows: `<tr>` elements.
        numbers: columns that are set to the right.
        sortable: whether the heads are buttons.
    """
    right = frozenset(numbers)
    cells = [
        tag("th", tag("button", words(head), type="button") if sortable else words(head), scope="col",
            class_="number" if head in right else None)
        for head in heads
    ]  # fmt: skip
    made = tag(
        "table",
        tag("caption", words(caption), class_="unseen"),
        tag("thead", tag("tr", *cells)),
        tag("tbody", *rows),
        class_="sortable" if sortable else None,
    )
    return tag("div", made, class_="scroll", role="region", aria_label=caption, tabindex="0")


def row(cells: Sequence[str], *, numbers: Iterable[int] = (), **attributes: object) -> str:
    """A row whose first cell is its head; `numbers` are the indices of cells that are set to the right."""
    right = frozenset(numbers)
    first, *rest = cells
    made = [tag("th", first, scope="row")]
    made += [tag("td", cell, class_="number" if i in right else None) for i, cell in enumerate(rest, start=1)]
    return tag("tr", *made, **attributes)
