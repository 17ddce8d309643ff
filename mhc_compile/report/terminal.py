"""The report of a dry run, for a terminal or a pipe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from mhc_compile.dynamo.explain import Explanation
from mhc_compile.passes.plan.data import Plan, Rejection, Segment, Site
from mhc_compile.passes.plan.steps import StepKind, Unfused
from mhc_compile.report.collapse import Group, collapse, singles
from mhc_compile.report.connections import FORMULA, NAMES, OVER_SOURCES, Row
from mhc_compile.report.parts import bulleted, facts, new_table, section
from mhc_compile.report.recommendations import recommend
from mhc_compile.report.roles import Role
from mhc_compile.wording import count_text, names_text, shape_text, short_location, state_text


class InconsistentPlanError(RuntimeError):
    """The numbers of a plan do not add up: a defect of this package, never of the model."""


def check_totals(plan: Plan) -> None:
    """Check that every float add is counted once, and every site lies in one segment.

    Raises:
        InconsistentPlanError: the sums differ.
    """
    parts: tuple[Site | Rejection, ...] = (*plan.sites, *plan.rejected)
    adds = Counter(add for part in parts for add in part.adds)
    if adds.total() != plan.float_adds or len(adds) != plan.float_adds:
        twice = [add for add, count in adds.items() if count > 1]
        raise InconsistentPlanError(f"{adds.total()} adds are explained, {plan.float_adds} exist; repeated: {twice}")
    in_segments = sorted(key for segment in plan.segments for key in segment.sites)
    if in_segments != sorted(site.key for site in plan.sites):
        raise InconsistentPlanError(f"segments hold the sites {in_segments}, the plan {[s.key for s in plan.sites]}")


def render(plan: Plan, console: Console, *, target: str, show_all: bool = False) -> None:
    """Print the whole report.

    Args:
        plan: what to report.
        console: where to; a console that is no terminal gets plain lines without boxes.
        target: name of the model, for the header.
        show_all: one row for each site and each rejected add, instead of one for each kind.

    Raises:
        InconsistentPlanError: the totals of the plan do not add up.
    """
    _render_plan(plan, console, target, show_all)
    bulleted(console, "Recommendations", recommend(plan))


def _render_plan(plan: Plan, console: Console, target: str, show_all: bool) -> None:
    check_totals(plan)
    console.print(_header(plan, target, boxed=console.is_terminal))
    if plan.sites:
        section(console, "Sites", _site_table(plan, console.is_terminal, show_all))
        section(console, "Segments", _segment_table(plan, console.is_terminal))
        section(console, "Kernels of one forward pass", _kernel_table(plan, console.is_terminal))
    if plan.rejected:
        rejected = _rejection_list if show_all else _rejection_table
        section(console, "Adds left alone", rejected(plan, console.is_terminal))
    bulleted(console, "Notes", plan.notes)


def render_explanation(found: Explanation, console: Console, *, target: str, show_all: bool = False) -> None:
    """Print what the backend would find: the graph breaks, the report of each graph, recommendations for all of them.

    Args:
        found: what to report.
        console: where to.
        target: name of the model, for the header.
        show_all: as for `render`.
    """
    console.print(facts([("target", target), ("compiled", found.headline())]))
    if found.breaks:
        table = new_table(console.is_terminal, "Breaks", "Where", "Why", right=("Breaks",))
        for b in found.breaks:
            why = Text(b.reason).append(f"\n{b.remark}" if b.remark else "", style="yellow")
            table.add_row(str(b.count), short_location(b.location) or "unknown", why)
        section(console, "Graph breaks (streams are reduced before and expanded after)", table)
    for i, record in enumerate(found.graphs):
        console.print()
        _render_plan(record.plan, console, f"graph {i}: {short_location(record.origin.frame)}", show_all)
    if found.graphs:
        bulleted(console, "Recommendations", recommend(*found.plans))


def render_connections(rows: Sequence[Row], console: Console, *, n: int, channels: int) -> None:
    """Print the table of connections, in a terminal with whose and in which models below the name."""
    boxed = console.is_terminal
    console.print(
        facts([("one site", FORMULA), ("of sources", OVER_SOURCES), ("counted for", f"n = {n}, C = {channels:,}")])
    )
    names = NAMES[:-2] if boxed else NAMES
    table = new_table(boxed, *names, right=("Parameters", "Forward", "Backward"))
    for row in rows:
        name, *cells = row.cells()
        details = [line for line in (row.source, row.ships and f"in {row.ships}") if line]
        below = Text(name).append("".join(f"\n{line}" for line in details), style="dim") if boxed else Text(name)
        table.add_row(below, *(cells[:-2] if boxed else cells))
    section(console, "Connections (traffic of one interior site, in elements per token and channel)", table)


def render_roles(roles: Sequence[Role], console: Console) -> None:
    """Print what `roles_of` found out about one node."""
    for i, role in enumerate(roles):
        if i:
            console.print()
        console.print(Text(role.sentence, style="bold"))
        if role.facts:
            console.print(Padding(facts(role.facts), (0, 0, 0, 2)) if console.is_terminal else facts(role.facts))


def _header(plan: Plan, target: str, boxed: bool) -> Panel | Table:
    site_adds, rejected_adds = (sum(len(p.adds) for p in parts) for parts in (plan.sites, plan.rejected))
    state = "a list of sources" if plan.over_sources else f"n = {plan.n}"
    options = f"{plan.connection} · {state} · init {plan.init} · reduce {plan.reduce}"
    table = facts(
        [
            ("target", target),
            ("connection", options),
            ("sites", f"{len(plan.sites)} in {count_text(len(plan.segments), 'segment')}"),
            ("new parameters", f"{plan.parameters:,}"),
            ("float adds", f"{plan.float_adds} = {site_adds} in sites + {rejected_adds} left alone"),
            ("graph", count_text(plan.nodes, "node")),
        ]
    )
    return Panel.fit(table, title="[bold]mhc-compile inspect", border_style="cyan", padding=(0, 2)) if boxed else table


def _site_table(plan: Plan, boxed: bool, show_all: bool) -> Table:
    """In a terminal the branch and the source stand below the key, so that rows fit 80 columns; else in columns."""
    names = ["Segment", "Site", "Count", "Kind", "Shape", "Parameters"]
    footer = ["", "total", str(len(plan.sites)), "", "", f"{plan.parameters:,}"]
    if not boxed:
        names, footer = [*names, "Branch", "Source"], [*footer, "", ""]
    table = new_table(boxed, *names, right=("Segment", "Count", "Parameters"), footer=footer)
    for segment in plan.segments:
        for cells in _segment_rows(plan, segment, boxed, show_all):
            table.add_row(*cells)
        table.add_section()
    return table


def _segment_rows(plan: Plan, segment: Segment, boxed: bool, show_all: bool) -> Iterator[list[str | Text]]:
    sites = [plan.site(key) for key in segment.sites]
    for i, group in enumerate(singles(sites) if show_all else collapse(sites)):
        index = str(segment.index) if i == 0 or not boxed else ""
        yield _site_cells(index, group, boxed)
    learned = [r for r in segment.readouts if r.parameters]
    if learned:
        parameters = f"{sum(r.parameters for r in learned):,}"
        yield [str(segment.index), "readouts", str(len(learned)), "learned", "", parameters]


def _site_cells(index: str, group: Group, boxed: bool) -> list[str | Text]:
    site = group.sites[0]
    name, details = Text(group.label), [site.branch_summary, short_location(site.location)]
    cells = [str(len(group.sites)), site.kind, shape_text(site.shape), f"{group.parameters:,}"]
    if not boxed:
        return [index, name, *cells, *details]
    return [index, name.append("".join(f"\n{line}" for line in details if line), style="dim"), *cells]


def _segment_table(plan: Plan, boxed: bool) -> Table:
    names = ("Segment", "Sites", "Entry", "Readouts", "Lifted ops", "Sources" if plan.over_sources else "Streams")
    table = new_table(boxed, *names, right=("Segment", "Sites"))
    for segment in plan.segments:
        places = [names_text([r.node for r in segment.readouts]), names_text(segment.lifts)]
        streams = "may differ" if segment.linear else "equal"
        streams = state_text(plan, segment) if plan.over_sources else streams
        table.add_row(str(segment.index), str(len(segment.sites)), segment.entry, *places, streams)
    return table


def _kernel_table(plan: Plan, boxed: bool) -> Table:
    """One row for each kind of step and each reason why steps stay apart, in order of first appearance."""
    table = new_table(boxed, "Count", "Step", "Why not fused further", right=("Count",))
    groups: dict[tuple[StepKind, Unfused | None, str], int] = Counter()
    for step in plan.steps:
        detail = step.detail if step.reason in (Unfused.LIFTED, Unfused.CONNECTION) else ""
        groups[step.kind, step.reason, detail] += 1
    for (kind, reason, detail), count in groups.items():
        why = Text(reason.value if reason else "")
        if detail:
            why.append(f" ({detail})", style="dim")
        name = kind.name.lower()
        table.add_row(str(count), Text(name).append("\n" if boxed else ": ").append(kind.value, style="dim"), why)
    return table


def _rejection_table(plan: Plan, boxed: bool) -> Table:
    """One row for each reason, the most frequent first, with its first add as the example."""
    table = new_table(boxed, "Adds", "Reason", "Example", right=("Adds",))
    by_reason: dict[str, list[Rejection]] = {}
    for rejection in plan.rejected:
        by_reason.setdefault(rejection.reason.name, []).append(rejection)
    for name, group in sorted(by_reason.items(), key=lambda item: -len(item[1])):
        count = sum(len(r.adds) for r in group)
        table.add_row(str(count), _reason_text(name, group[0], boxed), _example_text(group[0], boxed))
    return table


def _rejection_list(plan: Plan, boxed: bool) -> Table:
    """One row for each rejected sum, in graph order."""
    table = new_table(boxed, "Adds", "Reason", "Add", right=("Adds",))
    for r in plan.rejected:
        table.add_row(str(len(r.adds)), _reason_text(r.reason.name, r, boxed), _example_text(r, boxed))
    return table


def _reason_text(name: str, rejection: Rejection, boxed: bool) -> Text:
    return Text(name).append("\n" if boxed else ": ").append(rejection.reason.value, style="dim")


def _example_text(rejection: Rejection, boxed: bool) -> Text:
    head = f"{rejection.add}: {rejection.detail}" if rejection.detail else rejection.add
    place = " · ".join(filter(None, (shape_text(rejection.shape), rejection.module)))
    lines = filter(None, (place, short_location(rejection.location)))
    return Text(head).append("".join(("\n" if boxed else "  ") + line for line in lines), style="dim")
