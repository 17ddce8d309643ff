"""What each pass did to a graph: the nodes it touched, how long it took, and the graph before and after as text."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch import fx

from mhc_compile.passes.plan.keys import identifier

Watch = Callable[[str, fx.GraphModule], AbstractContextManager[None]]
"""Entered around every pass, with its name and the graph that it works on."""

PASSES = {
    "inline": "bodies of checkpointed blocks become part of the graph",
    "normalise": "writes in place become values, and every add is spelled out",
    "plan": "sites are found and decided; the graph stays as it is",
    "rewrite": "coefficients, read and write for each site; lifted operators; readouts",
    "fuse": "a write and the read behind it become one step",
    "recompute": "steps are given what they restore streams from (only with `recompute`)",
    "outline": "bodies of checkpointed blocks are put together again",
}
"""Every pass in order, and what it does."""


def unwatched(name: str, gm: fx.GraphModule) -> AbstractContextManager[None]:
    """Watches nothing."""
    return nullcontext()


@dataclass(frozen=True)
class Line:
    """One node as text.

    Attributes:
        text: "" for what only looks up a parameter: its users name the parameter.
        site: key of the site that it was made for, "" for a node of the model's own.
        reads: names of what the rewrite has made and this node reads.
    """

    text: str
    site: str = ""
    reads: tuple[str, ...] = ()


GAP = "…"
"""Stands for lines that are left out."""

Snapshot = dict[str, Line]
"""Name of a node -> its line, in graph order."""


@dataclass(frozen=True)
class PassRecord:
    """What one pass did.

    Attributes:
        name: a key of `PASSES`.
        seconds: that it took.
        before: the graph in front of it.
        after: the graph behind it.
    """

    name: str
    seconds: float
    before: Snapshot
    after: Snapshot

    @property
    def added(self) -> int:
        """Nodes that are new."""
        return len(self.after.keys() - self.before.keys())

    @property
    def removed(self) -> int:
        """Nodes that are gone."""
        return len(self.before.keys() - self.after.keys())

    @property
    def changed(self) -> int:
        """Nodes that compute something else or from something else."""
        both = self.before.keys() & self.after.keys()
        return sum(self.before[name].text != self.after[name].text for name in both)

    @property
    def touched(self) -> int:
        """All of these."""
        return self.added + self.removed + self.changed


class History:
    """A watch that keeps a record of every pass."""

    def __init__(self) -> None:
        self.records: list[PassRecord] = []

    @contextmanager
    def __call__(self, name: str, gm: fx.GraphModule) -> Iterator[None]:
        """Enter around a pass; the time that snapshots take is not counted."""
        before = self.records[-1].after if self.records else snapshot(gm)
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        self.records.append(PassRecord(name, seconds, before, snapshot(gm)))


def snapshot(gm: fx.GraphModule) -> Snapshot:
    """The graph as text, node by node."""
    return {node.name: _line(node) for node in gm.graph.nodes}


def around(graph: Snapshot, site: str, own: Collection[str]) -> tuple[str, ...]:
    """The lines of one site in graph order, with dots where others lie between.

    Args:
        graph: before or after a pass.
        site: key of the site; what the rewrite has made for it belongs to it.
        own: names of the model's own nodes that belong to it.
    """
    start = f"{identifier(site)}_"
    made = {name: line for name, line in graph.items() if line.site == site or name.startswith(start)}
    sources = {read for line in made.values() for read in line.reads}
    lines: list[str] = []
    gap = False
    for name, line in graph.items():
        if not line.text:
            continue
        if name in own or name in made or name in sources:
            lines += [GAP] if gap and lines else []
            lines.append(line.text)
            gap = False
        else:
            gap = True
    return tuple(lines)


def _line(node: fx.Node) -> Line:
    made = tuple(source.name for source in node.all_input_nodes if "mhc" in source.meta)
    return Line(_text(node), node.meta.get("mhc", {}).get("site", ""), made)


def _text(node: fx.Node) -> str:
    if node.op == "placeholder":
        return f"{node.name} = input"
    if node.op == "get_attr":
        return ""
    if node.op == "output":
        return f"return {_value(node.args[0])}"
    if node.op == "call_method":
        owner, *rest = node.args
        return f"{node.name} = {_value(owner)}.{node.target}({_arguments(rest, node.kwargs)})"
    name = f"self.{node.target}" if node.op == "call_module" else _callable(node.target)
    return f"{node.name} = {name}({_arguments(node.args, node.kwargs)})"


def _callable(target: Any) -> str:
    return str(getattr(target, "__name__", target))


def _arguments(args: Any, kwargs: dict[str, Any]) -> str:
    return ", ".join([*map(_value, args), *(f"{name}={_value(value)}" for name, value in kwargs.items())])


def _value(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        inside = ", ".join(map(_value, value))
        return f"[{inside}]" if isinstance(value, list) else f"({inside},)" if len(value) == 1 else f"({inside})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_value(v)}" for key, v in value.items()) + "}"
    is_parameter = isinstance(value, fx.Node) and value.op == "get_attr"
    return f"self.{value.target}" if is_parameter else str(value)
