"""What a reader filters: every site, and every add that is left alone with the reason."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mhc_compile.page.html import row, table, tag, words
from mhc_compile.passes.plan.data import Plan, Rejection
from mhc_compile.passes.plan.steps import Step
from mhc_compile.report.recommendations import advice_on
from mhc_compile.wording import count_text, shape_text, short_location

_HEADS = ("Site", "Segment", "Kind", "Shape", "New parameters", "Branch", "Step", "Source")


def site_table(plan: Plan) -> str:
    """One row for each site, with filters above."""
    segment_of = {key: segment.index for segment in plan.segments for key in segment.sites}
    steps = {step.gates or step.writes: step for step in plan.steps}
    kinds = sorted({site.kind for site in plan.sites})
    rows = []
    for site in plan.sites:
        segment = str(segment_of[site.key])
        cells = [
            tag("code", words(site.key)), segment, words(site.kind), words(f"{shape_text(site.shape)} {site.dtype}"),
            f"{site.parameters:,}", words(site.branch_summary), _step(steps.get(site.key)),
            words(short_location(site.location)),
        ]  # fmt: skip
        rows.append(row(cells, numbers=(1, 4), data_segment=segment, data_kind=site.kind))
    made = table("Table of sites", _HEADS, rows, numbers=("Segment", "New parameters"), sortable=True)
    segments = [str(segment.index) for segment in plan.segments]
    return _filters("site-table", len(rows), segment=segments, kind=kinds) + tag("div", made, id="site-table")


def _step(step: Step | None) -> str:
    if step is None:
        return ""
    why = f": {step.reason.value}" if step.reason else ""
    return words(f"{step.kind.name.lower()}{why}")


def _filters(target: str, count: int, **choices: Iterable[str]) -> str:
    fields = [_field(f"{target}-text", "Contains", tag("input", id=f"{target}-text", type="search", data_text=True))]
    for name, values in choices.items():
        options = [tag("option", "all", value=""), *(tag("option", words(value), value=value) for value in values)]
        identity = f"{target}-{name}"
        fields.append(_field(identity, name.capitalize(), tag("select", *options, id=identity, data_of=name)))
    status = tag("p", count_text(count, "row"), role="status", class_="quiet")
    return tag("div", *fields, status, class_="tools filters", data_for=target)


def _field(identity: str, label: str, control: str) -> str:
    return tag("div", tag("label", label, for_=identity), control, class_="field")


def left_alone(plan: Plan) -> str:
    """Adds that are no sites, by reason: the most frequent first, each with what to do about it."""
    by_reason: dict[str, list[Rejection]] = {}
    for rejection in plan.rejected:
        by_reason.setdefault(rejection.reason.name, []).append(rejection)
    groups = sorted(by_reason.items(), key=lambda item: -len(item[1]))
    return "".join(_reason(name, members) for name, members in groups) or tag("p", "Every float add is part of a site.")


def _reason(name: str, members: list[Rejection]) -> str:
    adds = sum(len(r.adds) for r in members)
    summary = tag(
        "summary",
        tag("span", f"{adds:,}", class_="badge"),
        tag("strong", words(name)),
        tag("span", words(members[0].reason.value), class_="quiet"),
    )
    advice = advice_on(members[0].reason)
    told = tag("p", words(advice)) if advice else ""
    heads = ("Add", "Detail", "Shape", "Module", "Source")
    return tag("details", summary, told, table(f"Adds left alone: {name}", heads, _rows(members)), class_="reason")


def _rows(members: list[Rejection]) -> Iterator[str]:
    for r in members:
        module = tag("code", words(r.module)) if r.module else ""
        source = words(short_location(r.location))
        yield row([tag("code", words(r.add)), words(r.detail), words(shape_text(r.shape)), module, source])
