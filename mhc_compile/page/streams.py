"""The drawing: streams run down the page, a site reads from them and writes to them. Repeated blocks are folded."""

from __future__ import annotations

from collections.abc import Iterator

from mhc_compile.page.html import code, tag, words
from mhc_compile.passes.plan.data import Plan, Segment, Site
from mhc_compile.report.collapse import Block, fold_blocks
from mhc_compile.wording import TIMES, count_text, entry_text, names_text, shape_text, short_location, state_text

_OPEN_SITES = 48
"""Segments are open up to so many sites in all, blocks are not: a page is to begin with an overview."""


def draw_streams(plan: Plan) -> str:
    """Every segment of a plan, with a field to search and buttons to fold."""
    shown = [_segment(plan, segment, len(plan.segments) * 8 <= _OPEN_SITES) for segment in plan.segments]
    return tag("div", _tools(len(plan.sites)), *shown, class_="drawing", id="drawing")


def _tools(sites: int) -> str:
    search = tag("input", id="find", type="search", autocomplete="off", spellcheck="false", placeholder="blocks.3.mlp")
    return tag(
        "div",
        tag("div", tag("label", "Find a site", for_="find"), search, class_="field"),
        tag("button", "Unfold all", type="button", id="unfold"),
        tag("button", "Fold all", type="button", id="fold"),
        tag("p", count_text(sites, "site"), id="found", role="status", class_="quiet"),
        class_="tools",
    )


def _segment(plan: Plan, segment: Segment, opened: bool) -> str:
    blocks = fold_blocks([plan.site(key) for key in segment.sites])
    body = "".join(_block(plan, block) for block in blocks)
    ends = [r.node for r in segment.readouts if r.key.rpartition(".readout")[0] not in segment.sites[:-1]]
    head = tag("strong", f"Segment {segment.index}")
    return tag(
        "details",
        tag("summary", head, tag("span", words(_remark(plan, segment)), class_="quiet")),
        tag(
            "ol",
            _end("entry", f"{segment.entry} {entry_text(plan)}"),
            body,
            _end(
                "readout",
                f"{'sources' if plan.over_sources else 'streams'} become {names_text(ends) or 'one value nobody uses'}",
            ),
            class_="line",
            style=f"--n:{plan.n}",
        ),
        class_="segment",
        open=opened,
    )


def _remark(plan: Plan, segment: Segment) -> str:
    lifted = f" · {count_text(len(segment.lifts), 'lifted operator')}" if segment.lifts else ""
    return f"{count_text(len(segment.sites), 'site')}{lifted} · {state_text(plan, segment)}"


def _end(kind: str, sentence: str) -> str:
    return tag("li", tag("span", words(sentence), class_="pill"), class_=f"end {kind}")


def _block(plan: Plan, block: Block) -> str:
    """The sites of a block, folded if it is repeated."""
    members = [site for repeat in range(block.count) for site in (group.sites[repeat] for group in block.groups)]
    if block.count == 1:
        return "".join(_sites(plan, members))
    names = ", ".join(group.label for group in block.groups)
    badge = tag("span", f"{TIMES} {block.count}", class_="badge")
    head = tag("summary", badge, code(names), tag("span", f" {count_text(len(members), 'site')}", class_="quiet"))
    return tag("li", tag("details", head, tag("ol", *_sites(plan, members)), class_="block"), class_="folded")


def _sites(plan: Plan, sites: list[Site]) -> Iterator[str]:
    read_out = {r.key.rpartition(".readout")[0]: r.node for s in plan.segments for r in s.readouts}
    last = {segment.sites[-1] for segment in plan.segments}
    for site in sites:
        out = read_out.get(site.key) if site.key not in last else None
        remark = [tag("span", f"read out as {words(out)}", class_="quiet")] if out else []
        facts = f"{site.branch_summary} · {shape_text(site.shape)} · {short_location(site.location)}"
        card = tag("div", code(site.key), tag("span", words(facts), class_="quiet facts"), *remark, class_="card")
        yield tag("li", card, class_="site", data_key=site.key)
