"""Which read weights a site is read with under `mhc-single-pass`: those of the site before, where they still fit.

In DeepSeek-V4.1 a branch reads `u_l = sum_i pre_(l-1),i X_l,i`: all that a boundary needs is known before it starts,
and the streams are read once. Read weights belong to tokens, so they do not fit behind an operator that moves tokens or
makes them more or fewer; there the site is read with equal weights, and the plan says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from torch import fx

from mhc_compile.passes.graph.op_kinds import ELSEWHERE, kind_of
from mhc_compile.passes.graph.values import tensor_of
from mhc_compile.passes.plan.data import Plan, Site


def authors(plan: Plan, nodes: Iterable[fx.Node]) -> dict[str, Site | None]:
    """Name of each value on the streams -> the site whose read weights fit it, None where they do not."""
    written = {site.add: site for site in plan.sites}
    lifts = {name for segment in plan.segments for name in segment.lifts}
    sides = {pair for segment in plan.segments for pair in segment.sides}
    found: dict[str, Site | None] = {}
    for node in nodes:
        if node.name in written:
            found[node.name] = written[node.name]
        elif node.name in lifts:
            streams = [v for v in node.all_input_nodes if v.name in found and (node.name, v.name) not in sides]
            site = found[streams[0].name] if streams else None
            found[node.name] = site if site is not None and _fits(site, node) else None
    return found


def single_pass_notes(plan: Plan, nodes: Mapping[str, fx.Node], reduce: str) -> Iterator[str]:
    """What a plan says about sites, and readouts of means, that do not take the weights of the site before."""
    found = authors(plan, nodes.values())
    sites = [site.key for site in plan.sites if site.base in found and found[site.base] is None]
    readouts = [r.node for segment in plan.segments for r in segment.readouts if found.get(r.node, r) is None]
    for kind, apart in (("sites", sites), ("readouts", readouts if reduce == "mean" else [])):
        if apart:
            some = ", ..." if len(apart) > 1 else ""
            yield (
                f"mhc-single-pass reads {len(apart)} {kind} with equal weights, tokens move in front of them: "
                f"{apart[0]}{some}"
            )


def _fits(site: Site, node: fx.Node) -> bool:
    value = tensor_of(node)
    if value is None or kind_of(node) in ELSEWHERE or value.dim() != len(site.shape):
        return False
    sizes = [str(size) for size in value.shape]
    return all(
        size == str(own) or axis == site.channel_axis
        for axis, (size, own) in enumerate(zip(sizes, site.shape, strict=True))
    )
