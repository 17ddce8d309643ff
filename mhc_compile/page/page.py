"""One page from frozen data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from mhc_compile.cost.figures import Estimate
from mhc_compile.page.code import show_code
from mhc_compile.page.cost import show_cost
from mhc_compile.page.html import listing, row, table, tag, words
from mhc_compile.page.panel import Panel
from mhc_compile.page.streams import draw_streams
from mhc_compile.page.tables import left_alone, site_table
from mhc_compile.passes.plan.data import Plan
from mhc_compile.report.recommendations import recommend
from mhc_compile.report.rewrites import Rewrites
from mhc_compile.report.text_file import check_file, write_text
from mhc_compile.wording import quantity


@dataclass(frozen=True)
class Page:
    """Everything a page shows.

    Attributes:
        target: name of the model.
        plan: what would be rewritten.
        estimate: what it would cost; None with the reason in `remarks`.
        rewrites: the passes, and one site before and after; None with the reason in `remarks`.
        diagnostics: of a trained checkpoint, where one was given.
        remarks: what is missing and why.
    """

    target: str
    plan: Plan
    estimate: Estimate | None = None
    rewrites: Rewrites | None = None
    diagnostics: tuple[Panel, ...] = ()
    remarks: tuple[str, ...] = ()


def check_output(path: str | Path) -> Path:
    """The path of a page that can be written.

    Raises:
        InvalidOptionError: it does not end in `.html`, its directory does not exist, or it is a directory.
    """
    return check_file(path, "page", (".html", ".htm"), "report.html")


def write_page(page: Page, path: str | Path) -> None:
    """Write a page.

    Raises:
        InvalidOptionError: the path cannot be written, or does not end in `.html`.
    """
    write_text(check_output(path), to_html(page))


def to_html(page: Page) -> str:
    """A page as HTML, with its style and script inside: it needs no network."""
    sections = list(_sections(page))
    links = [tag("a", words(title), href=f"#{name}") for name, title, _ in sections]
    theme = tag("button", "Dark", type="button", id="theme")
    body = [
        tag("a", "Skip to the report", href="#main", class_="skip"),
        tag("header", tag("div", *_heading(page), class_="wide")),
        tag("nav", tag("div", *links, theme, class_="wide"), aria_label="Sections"),
        tag("main", *(_section(*section) for section in sections), id="main", class_="wide", tabindex="-1"),
        tag("script", _asset("page.js")),
    ]
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", words(f"{page.target} · mhc-compile report")),
        tag("style", _asset("page.css")),
    ]
    return f"<!doctype html>\n{tag('html', tag('head', *head), tag('body', *body), lang='en')}\n"


def _asset(name: str) -> str:
    return files("mhc_compile.page").joinpath(name).read_text(encoding="utf-8")


def _heading(page: Page) -> Iterator[str]:
    plan = page.plan
    yield tag("p", "mhc-compile report", class_="quiet")
    yield tag("h1", words(page.target))
    yield tag("p", words(f"{plan.connection} · n = {plan.n} · init {plan.init} · reduce {plan.reduce}"))
    adds = sum(len(r.adds) for r in plan.rejected)
    facts = {
        "sites": f"{len(plan.sites):,}",
        "segments": f"{len(plan.segments):,}",
        "new parameters": f"{plan.parameters:,}",
        "adds left alone": f"{adds:,} of {plan.float_adds:,}",
    }
    if page.estimate is not None:
        facts |= _estimated(page.estimate, plan)
    yield tag("dl", *(tag("div", tag("dt", words(k)), tag("dd", words(v))) for k, v in facts.items()), class_="cards")


def _estimated(found: Estimate, plan: Plan) -> dict[str, str]:
    r = next((r for r in found.rows if r.n == plan.n), found.rows[0])
    text = quantity(r.ours.overhead.value, "%")
    return {f"longer step, estimated for {found.device.name} at {found.tokens:,} tokens": f"+ {text}"}


def _sections(page: Page) -> Iterator[tuple[str, str, str]]:
    """Identity, title and content of every section."""
    plan = page.plan
    said = listing([*recommend(plan), *plan.notes, *page.remarks])
    if said:
        yield "advice", "Advice", said
    if plan.sites:
        yield "streams", "Streams", draw_streams(plan)
        yield "sites", "Sites", site_table(plan)
    yield "alone", "Left alone", left_alone(plan)
    if page.estimate is not None:
        yield "cost", "Cost", show_cost(page.estimate)
    if page.diagnostics:
        yield "diagnostics", "Diagnostics", "".join(map(_panel, page.diagnostics))
    if page.rewrites is not None:
        yield "code", "Code", show_code(page.rewrites)


def _panel(panel: Panel) -> str:
    rows = (row([words(cell) for cell in cells], numbers=range(1, len(cells))) for cells in panel.rows)
    shown = table(panel.title, panel.columns, rows, numbers=panel.columns[1:]) if panel.rows else ""
    drawn = [tag("div", drawing, class_="drawn") for drawing in panel.drawings]
    return tag("h3", words(panel.title)) + listing(panel.notes) + "".join(drawn) + shown


def _section(name: str, title: str, content: str) -> str:
    return tag(
        "section", tag("h2", words(title), id=f"{name}-title"), content, id=name, aria_labelledby=f"{name}-title"
    )
