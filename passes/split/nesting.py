"""Split a flat graph into one graph per module call, so that the code runs through the model's own modules.

Whatever hangs on a module call (hooks, sharding, activation checkpointing, offloading) then works as it does without
the rewrite. What cannot be called as a whole stays in the code around it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import fx

from mhc_compile.errors import ParallelError
from mhc_compile.passes.graph.borders import is_border
from mhc_compile.passes.plan.data import OWNER
from mhc_compile.passes.plan.keys import identifier
from mhc_compile.passes.split.arrange import Part, arrange
from mhc_compile.passes.split.scopes import ModuleNames, Scope, common, homes, inside
from mhc_compile.passes.split.whole_calls import call_whole, close_whole_calls, fetch, whole_call

HOSTED = "_hyper_connections"
"""Attribute of a module under which it finds the hyper-connections that its code uses."""

Link = Callable[[Part, fx.Graph, str], Callable[..., object]]
"""Makes code from the graph of a part: `code(module, *inputs)`, or `code(*inputs)` for a checkpointed region.

The text is the name of the part, as seen from the code around it.
"""


@dataclass(frozen=True)
class Layout:
    """How a flat graph will be split.

    Attributes:
        items: its nodes and parts in order, without those that read attributes.
        entered: names of the modules that are called.
        whole: those of them that run their own code.
        hosts: identifier of a hyper-connection -> name of the innermost of them that holds all its uses, "" for none.
    """

    items: tuple[fx.Node | Part, ...]
    entered: frozenset[str]
    hosts: Mapping[str, str]
    whole: frozenset[str] = frozenset()

    @cached_property
    def left_out(self) -> frozenset[fx.Node]:
        """The nodes between the borders of modules that run their own code."""
        parts = (part for part in _parts(self.items) if part.scope.path in self.whole and not part.scope.region)
        return frozenset(node for part in parts for node in part.nodes if not is_border(node))

    @property
    def crossed(self) -> frozenset[str]:
        """Names of the modules over whose borders a step of one site hands something to another step: streams."""
        parts = (part for part in _parts(self.items) if not part.scope.region)
        return frozenset(part.scope.path for part in parts if _hands_over(part.nodes))


def _hands_over(nodes: Sequence[fx.Node]) -> bool:
    inside = {node for node in nodes if is_step(node)}
    outside = {other for node in inside for other in (*_sources(node), *_readers(node)) if is_step(other)}
    return not outside <= inside


def _sources(node: fx.Node) -> Iterator[fx.Node]:
    for source in node.all_input_nodes:
        yield source.all_input_nodes[0] if source.target is operator.getitem else source


def _readers(node: fx.Node) -> Iterator[fx.Node]:
    for user in node.users:
        yield from user.users if user.target is operator.getitem else (user,)


def is_step(node: fx.Node) -> bool:
    """Whether a node mixes streams: a function of the kernels."""
    return getattr(node.target, "__module__", "").partition(".kernels")[0] == "mhc_compile"


def hosted_name(site: str, path: str) -> str:
    """Name of a hyper-connection in its host, relative to it: `own__attn` for `blocks__1__attn` in `blocks.1`.

    The two beginnings keep different sites apart, whatever the modules are called.
    """
    host = identifier(path)
    return f"own{site.removeprefix(host)}" if site.startswith(host) else f"of_{site}"


def lay_out(graph: fx.Graph, names: ModuleNames) -> Layout:
    """Decide how a rewritten graph is split by module calls and checkpointed regions. Changes nothing."""
    found = homes(graph, names)
    whole = close_whole_calls(graph, found, names.whole) if names.whole else frozenset[Scope]()
    items = arrange([n for n in graph.nodes if n.op != "get_attr"], found)
    users: dict[str, list[fx.Node]] = {}
    for node in graph.nodes:
        if node.op == "get_attr" and str(node.target).startswith(f"{OWNER}."):
            users.setdefault(str(node.target).split(".")[1], []).extend(node.users)
    hosts = {key: [s.path for s in common(found[n] for n in nodes) if not s.region] for key, nodes in users.items()}
    entered = frozenset(part.scope.path for part in _parts(items) if not part.scope.region)
    if missing := whole - {part.scope for part in _parts(items)}:
        raise ParallelError(
            f"{', '.join(sorted(scope.path for scope in missing))} cannot be called as a whole: something else is "
            "computed between its first operation and its last, and it is distributed over several processes"
        )
    hosting = {key: paths[-1] if paths else "" for key, paths in hosts.items()}
    return Layout(items, entered, hosting, frozenset(scope.path for scope in whole))


def nest(layout: Layout, names: Mapping[str, Sequence[str]], link: Link) -> fx.Graph:
    """The graph of the model's own forward, which calls the code of all parts.

    Args:
        layout: from `lay_out`.
        names: name of a parameter, buffer or module -> all its names.
        link: see `Link`.
    """
    modules: dict[str, fx.Node] = {}
    handles = fx.Graph()  # of modules that are called; the flat graph reads none
    for path in layout.entered:
        modules[path] = handles.create_node("get_attr", path)
    body = _Body("", layout, names, modules, link)
    body.fill(layout.items)
    body.graph.lint()
    return body.graph


class _Body:
    """The graph of one part while it is made. `inputs` are the nodes of the flat graph that it wants to be given.

    Names in it do not depend on where the module lies in the model, so that blocks that are alike have the same code.
    """

    def __init__(
        self,
        path: str | None,  # None: a region, which is handed every attribute
        layout: Layout,
        names: Mapping[str, Sequence[str]],
        modules: Mapping[str, fx.Node],
        link: Link,
    ) -> None:
        self.path, self.layout, self.names, self.modules, self.link = path, layout, names, modules, link
        self.graph = fx.Graph()
        self.inputs: list[fx.Node] = []
        self.copies: dict[fx.Node, fx.Node] = {}
        self.last_input: fx.Node | None = None

    def fill(self, items: Sequence[fx.Node | Part]) -> None:
        """Copy the nodes of this part, and call those within."""
        for item in items:
            if isinstance(item, Part):
                self._call(item)
            else:
                self.copies[item] = self.graph.node_copy(item, self._value) if self.path == "" else self._copy(item)

    def _copy(self, node: fx.Node) -> fx.Node:
        args, kwargs = fx.map_arg((node.args, node.kwargs), self._value)
        return self.graph.create_node(node.op, node.target, args, kwargs)

    def _call(self, part: Part) -> None:
        region = part.scope.region is not None
        if not region and part.scope.path in self.layout.whole:
            self._call_whole(part)
            return
        inner = _Body(None if region else part.scope.path, self.layout, self.names, self.modules, self.link)
        inner.fill(part.items)
        outputs = _used_outside(part.nodes, self.layout.left_out)
        inner.graph.output(_one_or_tuple([inner.copies[n] for n in outputs]))
        handle = [] if region else [self._value(self.modules[part.scope.path])]
        args = (*handle, *(self._value(n) for n in inner.inputs))
        name = self._local(part.scope.path)
        # Nodes are named here and below: of BERT's `attention.self` torch.fx would make a variable called `self`.
        call = self.graph.create_node(
            "call_function", self.link(part, inner.graph, name), args, name=f"{identifier(name or 'model')}_output"
        )
        if len(outputs) == 1:
            self.copies[outputs[0]] = call
            return
        for i, node in enumerate(outputs):
            self.copies[node] = self.graph.call_function(operator.getitem, (call, i))

    def _call_whole(self, part: Part) -> None:
        path = part.scope.path
        whole = whole_call(path, part.nodes, self.layout.left_out)
        args, kwargs = fx.map_arg((whole.args, whole.kwargs), self._value)
        name = f"{identifier(self._local(path) or 'model')}_output"
        handle = self._value(self.modules[path])
        call = self.graph.create_node("call_function", call_whole, (handle, *args), dict(kwargs), name=name)
        for node, way in whole.results.items():
            self.copies[node] = fetch(self.graph, call, way)

    def _local(self, path: str) -> str:
        return path[len(self.path) + 1 :] if self.path and inside(path, self.path) else path

    def _value(self, node: fx.Node) -> fx.Node:
        """A value made here, an attribute seen from here, or a further input."""
        if node not in self.copies:
            name = self._seen_from_here(str(node.target)) if node.op == "get_attr" else None
            self.copies[node] = self._input(node) if name is None else self._attribute(name)
        return self.copies[node]

    def _attribute(self, name: str) -> fx.Node:
        return self.graph.create_node("get_attr", name, name=f"self_{name.replace('.', '_')}")

    def _seen_from_here(self, target: str) -> str | None:
        if not self.path:
            return target if self.path == "" else None
        child, _, rest = target.partition(".")
        if child == OWNER and self.layout.hosts.get(rest.partition(".")[0]) == self.path:
            site, _, parameter = rest.partition(".")
            return f"{HOSTED}.{hosted_name(site, self.path)}.{parameter}"
        found = next((n for n in self.names.get(target, (target,)) if inside(n, self.path)), None)
        return None if found is None else found[len(self.path) + 1 :]

    def _input(self, node: fx.Node) -> fx.Node:
        self.inputs.append(node)
        with self.graph.inserting_after(self.last_input):  # None is the very beginning
            self.last_input = self.graph.placeholder(f"input_{len(self.inputs) - 1}")
        return self.last_input


def _parts(items: Sequence[fx.Node | Part]) -> Iterator[Part]:
    for item in items:
        if isinstance(item, Part):
            yield item
            yield from _parts(item.items)


def _used_outside(nodes: Sequence[fx.Node], left_out: Collection[fx.Node]) -> list[fx.Node]:
    own = set(nodes)
    return [node for node in nodes if any(user not in own and user not in left_out for user in node.users)]


def _one_or_tuple(values: list[fx.Node]) -> fx.Node | tuple[fx.Node, ...]:
    return values[0] if len(values) == 1 else tuple(values)
