"""Mark every node of a graph with the pipeline stage it belongs to, before anything is rewritten.

What the rewrite emits for a site is marked like the add of that site, so that a write ends one stage and the
coefficients and read behind it begin the next: only the streams lie between. Nodes that are cheap to compute from
constants, such as a causal mask, belong to every stage that uses them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import fx

from mhc_compile.errors import BranchCutError, CutOrderError, SharedWriteError, UnknownCutError
from mhc_compile.passes.movable import computed_anywhere, writes
from mhc_compile.passes.normalise import aliases
from mhc_compile.passes.op_kinds import Kind, canonical_name, kind_of
from mhc_compile.passes.plan import Plan, Site
from mhc_compile.passes.steps import Step, StepKind, Unfused
from mhc_compile.passes.values import STAGE, module_path_of, value_of


def label_stages(gm: fx.GraphModule, plan: Plan, at: Sequence[str]) -> None:
    """Mark the nodes of the normalised graph that `plan` was made from, in place.

    Args:
        gm: a graph of Dynamo's, whose nodes know their modules.
        plan: of this graph.
        at: the first module of every stage but the first, in the order in which they run.

    Raises:
        UnknownCutError: a module does not exist, or computes nothing here.
        CutOrderError: the modules run in another order, or one stage has nothing to compute.
        BranchCutError: a cut lies between the read and the write of a site.
        SharedWriteError: a value that one stage changes in place is used by another one.
    """
    nodes = list(gm.graph.nodes)
    cuts = [_first_node(nodes, name) for name in at]
    anywhere = computed_anywhere(gm, nodes)
    _check_order(nodes, anywhere, at, cuts)
    for position, node in enumerate(nodes):
        if node.op == "placeholder":
            node.meta[STAGE] = 0
        elif node in anywhere:
            node.meta[STAGE] = None
        elif node.op != "get_attr":
            node.meta[STAGE] = _producer(node) if _is_part(node) else bisect_right(cuts, position)
    _check_branches(nodes, plan, at, cuts)
    _check_writes(nodes)


def split_steps(plan: Plan, stage_of: Mapping[str, int], at: Sequence[str]) -> Plan:
    """The plan without fused steps over a border: a boundary that lies on one becomes a write and a gate.

    Args:
        plan: of the whole graph.
        stage_of: stage of each site, by key.
        at: as for `label_stages`.
    """
    steps: list[Step] = []
    for step in plan.steps:
        if step.kind is StepKind.BOUNDARY and stage_of[step.writes] != stage_of[step.gates]:
            border = at[stage_of[step.gates] - 1]
            steps.append(Step(StepKind.WRITE, step.writes, "", Unfused.BORDER, border))
            steps.append(Step(StepKind.GATE, "", step.gates, Unfused.BORDER, border))
        else:
            steps.append(step)
    return replace(plan, steps=tuple(steps))


def stage_of_sites(gm: fx.GraphModule, plan: Plan) -> dict[str, int]:
    """The stage of each site of a marked graph, by key."""
    stages = {node.name: node.meta[STAGE] for node in gm.graph.nodes if STAGE in node.meta}
    return {site.key: stages[site.add] for site in plan.sites}


# --- where the cuts are ------------------------------------------------------------------------------------------


def _first_node(nodes: Sequence[fx.Node], name: str) -> int:
    for position, node in enumerate(nodes):
        path = module_path_of(node) if node.op.startswith("call") else ""
        if name and (path == name or path.startswith(f"{name}.")):
            return position
    paths = dict.fromkeys(module_path_of(node) for node in nodes if node.op.startswith("call"))
    parent = name.rpartition(".")[0]
    near = [p for p in paths if p.startswith(f"{parent}.")] if parent else list(paths)
    raise UnknownCutError(
        f"at: no module called {name!r} computes anything in this call: write the path of a submodule as in "
        f"model.named_modules(), for example {', '.join([p for p in near or paths if p][:5])}"
    )


def _check_order(nodes: Sequence[fx.Node], anywhere: Collection[fx.Node], at: Sequence[str], cuts: list[int]) -> None:
    order = sorted(zip(cuts, at, strict=True))
    if any(a >= b for a, b in pairwise(cuts)):
        names = list({position: name for position, name in reversed(order)}.values())[::-1]  # one for each place
        same = [name for position, name in order if cuts.count(position) > 1]
        why = f"{' and '.join(same)} begin at the same place" if same else "the modules run in another order"
        raise CutOrderError(f"at={list(at)}: {why}: write at={names}")
    work = [n.op.startswith("call") and n not in anywhere and not _is_part(n) for n in nodes]
    if not any(work[: cuts[0]]):
        raise CutOrderError(
            f"at={list(at)}: nothing is computed before {at[0]}, so the first stage would be empty: leave it out"
        )


def _is_part(node: fx.Node) -> bool:
    """Whether the node only takes a size, or one tensor of several, so that it belongs to what it is taken from."""
    inputs = node.all_input_nodes
    if not inputs or node.op == "output":
        return False
    if kind_of(node) is Kind.METADATA and not isinstance(value_of(node), torch.Tensor):
        return True
    return canonical_name(node) == "getitem" and not isinstance(value_of(inputs[0]), torch.Tensor)


def _producer(node: fx.Node) -> int:
    return max((n.meta.get(STAGE) or 0 for n in node.all_input_nodes), default=0)


# --- checks ------------------------------------------------------------------------------------------------------


def _check_branches(nodes: Sequence[fx.Node], plan: Plan, at: Sequence[str], cuts: Sequence[int]) -> None:
    stage = {node.name: node.meta.get(STAGE) for node in nodes}
    for site in plan.sites:
        inside = {stage[name] for name in (*site.branch_nodes, *site.lifts, *site.adds)} - {None}
        if len(inside) > 1:
            name = at[max(s for s in inside if s is not None) - 1]
            raise BranchCutError(
                f"at: {name!r} lies inside the branch of the residual connection {site.key}, between its read and its "
                f"write, where more than the streams would cross: write {_nearby(nodes, plan, name)}"
            )


def _nearby(nodes: Sequence[fx.Node], plan: Plan, name: str) -> str:
    """Places in front of and behind a bad cut where only streams cross, as text."""
    position = {node.name: i for i, node in enumerate(nodes)}
    spans = [_span(site, position) for site in plan.sites]

    def is_good(cut: int) -> bool:
        return not any(first < cut <= last for first, last in spans)

    bad = _first_node(nodes, name)
    parts = name.split(".")
    parents = [".".join(parts[:i]) for i in range(len(parts) - 1, 0, -1)]
    before = next((p for p in parents if is_good(_first_node(nodes, p))), None)
    later = (module_path_of(n) for i, n in enumerate(nodes) if i > bad and n.op.startswith("call") and is_good(i))
    behind = next((path for path in later if path and is_good(_first_node(nodes, path))), None)
    return " or ".join(repr(p) for p in (before, behind) if p) or "another module"


def _span(site: Site, position: Mapping[str, int]) -> tuple[int, int]:
    inside = [position[name] for name in (*site.branch_nodes, *site.lifts, *site.adds)]
    return min(inside), max(inside)


def _check_writes(nodes: Sequence[fx.Node]) -> None:
    """What is written to must have been made in the same stage: a write does not travel back over a border."""
    for node, operand in writes(nodes):
        own = node.meta[STAGE]
        for alias in aliases(operand):
            stages = {alias.meta.get(STAGE)} if alias.op != "get_attr" else _users_of(nodes, str(alias.target))
            others = {s for s in stages if s is not None and (s < own or alias.op == "get_attr")} - {own}
            if others:
                what = str(alias.target) if alias.op in ("get_attr", "placeholder") else alias.name
                raise SharedWriteError(
                    f"{what} is changed in place in stage {own} ({module_path_of(node) or 'the model'}: {node.name}), "
                    f"and stage {min(others)}, which uses it too, would not see that: cut elsewhere, so that both lie "
                    "in one stage, or compute a new tensor instead"
                )


def _users_of(nodes: Sequence[fx.Node], target: str) -> set[int]:
    users = (user for node in nodes if node.op == "get_attr" and node.target == target for user in node.users)
    return {user.meta[STAGE] for user in users if user.meta.get(STAGE) is not None}
