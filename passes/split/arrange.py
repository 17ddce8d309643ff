"""Put the nodes of a flat graph into an order in which every scope is in one piece, and show it as a tree.

A scope that cannot be in one piece, because something outside depends on it and it depends on that in turn, is
dissolved into the one around it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from torch import fx

from mhc_compile.passes.lift.draws import takes_numbers
from mhc_compile.passes.split.scopes import Home, Scope

_MODE_SWITCHES = frozenset({"_set_grad_enabled", "_enter_autocast", "_exit_autocast", "_enter_inference_mode"})


@dataclass(frozen=True)
class Part:
    """A scope: its nodes in their order, and the same with inner scopes as parts."""

    scope: Scope
    nodes: tuple[fx.Node, ...]
    items: tuple[fx.Node | Part, ...]


_Item = tuple[Scope | None, list[fx.Node]]


def arrange(nodes: list[fx.Node], homes: dict[fx.Node, Home], depth: int = 0) -> tuple[fx.Node | Part, ...]:
    """Nodes and parts of one level.

    Args:
        nodes: in an order that respects their dependencies.
        homes: scopes around each node; changed where one is dissolved.
        depth: how many scopes all of the nodes share.
    """
    items: list[fx.Node | Part] = []
    for scope, members in _pieces(nodes, homes, depth):
        if scope is None:
            items.append(members[0])
        else:
            inner = arrange(members, homes, depth + 1)
            items.append(Part(scope, tuple(_flat(inner)), inner))
    return tuple(items)


def _flat(items: tuple[fx.Node | Part, ...]) -> Iterator[fx.Node]:
    for item in items:
        if isinstance(item, Part):
            yield from item.nodes
        else:
            yield item


def _pieces(nodes: list[fx.Node], homes: dict[fx.Node, Home], depth: int) -> list[_Item]:
    while True:
        items = _items(nodes, homes, depth)
        if _contiguous(nodes, homes, depth, items):
            return items
        order, stuck = _sorted(items, nodes)
        if not stuck:
            return order
        for node in (n for scope, members in items if scope in stuck for n in members):
            homes[node] = homes[node][:depth] + homes[node][depth + 1 :]


def _scope(node: fx.Node, homes: dict[fx.Node, Home], depth: int) -> Scope | None:
    home = homes.get(node, ())
    return home[depth] if len(home) > depth else None


def _items(nodes: list[fx.Node], homes: dict[fx.Node, Home], depth: int) -> list[_Item]:
    found: dict[object, _Item] = {}
    for node in nodes:
        scope = _scope(node, homes, depth)
        found.setdefault(node if scope is None else scope, (scope, []))[1].append(node)
    return list(found.values())


def _contiguous(nodes: list[fx.Node], homes: dict[fx.Node, Home], depth: int, items: list[_Item]) -> bool:
    runs, last = 0, object()
    for node in nodes:
        scope = _scope(node, homes, depth)
        runs += scope is None or scope != last
        last = scope
    return runs == len(items)


def _sorted(items: list[_Item], nodes: list[fx.Node]) -> tuple[list[_Item], set[Scope | None]]:
    """The items in an order that respects their dependencies, as near to that of the graph as there is.

    Returns the scopes that depend on something that depends on them instead, if there are any.
    """
    import networkx as nx  # half of what importing this package takes, and few graphs come here

    place = {node: i for i, (_, members) in enumerate(items) for node in members}
    graph = nx.DiGraph()
    graph.add_nodes_from(range(len(items)))
    edges = [(source, node) for node in nodes for source in node.all_input_nodes if source in place]
    graph.add_edges_from((place[a], place[b]) for a, b in (*edges, *_fixed_order(nodes, place)) if place[a] != place[b])
    cycles = [c for c in nx.strongly_connected_components(graph) if len(c) > 1]
    if cycles:
        return [], {scope for cycle in cycles for i in cycle if (scope := items[i][0]) is not None}
    return [items[i] for i in nx.lexicographical_topological_sort(graph)], set()


def _fixed_order(nodes: list[fx.Node], place: dict[fx.Node, int]) -> Iterator[tuple[fx.Node, fx.Node]]:
    """Pairs whose order no value shows: effects and draws among themselves, a switch of a mode with all around it.

    Switches come in pairs. An item that holds both of a pair leaves the mode as it was, and can stand anywhere.
    """
    switches = [node for node in nodes if getattr(node.target, "__name__", "") in _MODE_SWITCHES]
    counts = Counter(place[node] for node in switches)
    open_ended = {node for node in switches if counts[place[node]] % 2}
    switch: fx.Node | None = None
    effect: fx.Node | None = None
    draw: fx.Node | None = None
    since: list[fx.Node] = []
    for node in nodes:
        if switch is not None:
            yield switch, node
        if node in open_ended:
            yield from ((earlier, node) for earlier in since)
            switch, since = node, []
        if not node.users and node.op != "output" and node not in switches:
            if effect is not None:
                yield effect, node
            effect = node
        if takes_numbers(node):
            if draw is not None:
                yield draw, node
            draw = node
        since.append(node)
