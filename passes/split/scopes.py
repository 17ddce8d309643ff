"""Which module call, or which checkpointed region, every node of a rewritten graph belongs to.

Nodes of the model lie where Dynamo traced them. Those of the rewrite follow the residual connection they serve: a write
lies where the add was, coefficients and read where both the add and the readers of the branch input lie.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import fx

from mhc_compile.passes.graph.checkpointed import META as CHECKPOINT
from mhc_compile.passes.graph.checkpointed import Region

STACK = "nn_module_stack"
_WRITING = frozenset({"write", "leave", "boundary"})
_GATING = frozenset({"entry", "gate", "boundary", "coefficients", "pre", "post", "mixing", "read"})
_INPUT_ITEM = {"entry": 0, "gate": 0, "boundary": 1}  # which result of a fused step the branch reads


@dataclass(frozen=True)
class Scope:
    """A part of the code that is called as a whole.

    Attributes:
        path: name of the module that is called; of the module around it for a checkpointed region.
        use: how many calls of the same module came before.
        region: the checkpointed region, if it is one.
    """

    path: str
    use: int = 0
    region: Region | None = None


Home = tuple[Scope, ...]


@dataclass(frozen=True)
class ModuleNames:
    """What the splitting knows of a module tree.

    Attributes:
        by_call: the first part of Dynamo's key of a module call -> all names of the module.
        enterable: names of modules that can be called in place of their nodes.
        recomputing: names of modules that checkpoint their own call, so that a region inside is not wanted twice.
        whole: names of the modules that are called as a whole, with the code that they have.
    """

    by_call: Mapping[str, Sequence[str]]
    enterable: frozenset[str]
    recomputing: frozenset[str] = frozenset()
    whole: frozenset[str] = frozenset()


def homes(graph: fx.Graph, names: ModuleNames) -> dict[fx.Node, Home]:
    """The scopes around each node, from the outermost one inwards; attributes belong to whoever reads them."""
    found = {n: _module_calls(n, names) for n in graph.nodes if n.op not in ("placeholder", "get_attr", "output")}
    _enclose_switches(found)
    _enclose_regions(found, names)
    _settle(found)
    return found


def inside(path: str, outer: str) -> bool:
    """Whether a dotted name lies below another."""
    return not outer or path.startswith(f"{outer}.")


def common(homes: Iterable[Home]) -> Home:
    """The scopes that all of them share."""
    shared: list[Scope] = []
    for level in zip(*homes, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return tuple(shared)


def _module_calls(node: fx.Node, names: ModuleNames) -> Home:
    calls: list[Scope] = []
    for key in node.meta.get(STACK) or {}:
        ident, _, use = str(key).partition("@")
        outer = calls[-1].path if calls else ""
        path = next((p for p in names.by_call.get(ident, ()) if inside(p, outer)), "")
        if path in names.enterable:
            calls.append(Scope(path, int(use or 0)))
    return tuple(calls)


def _enclose_regions(found: dict[fx.Node, Home], names: ModuleNames) -> None:
    """Put each checkpointed region inside the innermost module call that holds all of it."""
    regions: dict[Region, list[fx.Node]] = {}
    for node in found:
        if CHECKPOINT in node.meta:
            regions.setdefault(node.meta[CHECKPOINT], []).append(node)
    for region, nodes in regions.items():
        around = common(found[n] for n in nodes)
        path = around[-1].path if around else ""
        if path not in names.recomputing:
            for node in nodes:
                rest = found[node][len(around) :]
                found[node] = (*around, Scope(path, region=region), *rest)


def _enclose_switches(found: dict[fx.Node, Home]) -> None:
    """Put the calls that switch a mode on and off again, which Dynamo ascribes to nobody, where all between them is."""
    nodes = list(found)
    position = {node: i for i, node in enumerate(nodes)}
    for on, off in mode_switches(nodes):
        between = [found[n] for n in nodes[position[on] + 1 : position[off]] if "mhc" not in n.meta and STACK in n.meta]
        found[on] = found[off] = common(between)


def mode_switches(nodes: Iterable[fx.Node]) -> Iterator[tuple[fx.Node, fx.Node]]:
    """Pairs of nodes: one switches autocast or the gradient mode, the other puts back what was before."""
    grad_mode = True
    opened: list[tuple[fx.Node, bool]] = []
    for node in nodes:
        name = getattr(node.target, "__name__", "")
        if name == "_exit_autocast" and isinstance(node.args[0], fx.Node):
            yield node.args[0], node
        elif name == "_set_grad_enabled":
            if opened and node.args[0] == opened[-1][1]:
                on, grad_mode = opened.pop()
                yield on, node
            else:
                opened.append((node, grad_mode))
                grad_mode = bool(node.args[0])


def _settle(found: dict[fx.Node, Home]) -> None:
    """Move coefficients and reads to where the add and the readers of the branch input both lie."""
    marks = {node: node.meta["mhc"] for node in found if "mhc" in node.meta}
    written = {mark["site"]: found[node] for node, mark in marks.items() if mark["role"] in _WRITING}
    gating: dict[str, list[fx.Node]] = {}
    for node, mark in marks.items():
        if mark["role"] in _GATING:
            gating.setdefault(mark.get("gates") or mark["site"], []).append(node)
    for key, nodes in gating.items():
        readers = [found[user] for n in nodes if _is_branch_input(n) for user in n.users if user in found]
        home = common([written[key], *readers])
        for node in nodes:
            found[node] = home


def _is_branch_input(node: fx.Node) -> bool:
    """Whether a node is what the branch of a site reads: a read, or that result of a fused step."""
    role = node.meta["mhc"]["role"]
    item = node.args[1] if node.target is operator.getitem else None
    return bool(role == "read" or (role in _INPUT_ITEM and item == _INPUT_ITEM[role]))
