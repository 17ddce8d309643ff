"""Modules that generated code calls as a whole, with what the trace says they are given, instead of the nodes inside.

So whatever was put around such a module, and its own code, run as they do without the rewrite.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from mhc_compile.errors import ParallelError
from mhc_compile.passes.graph.borders import UnknownValueError, filled, is_border
from mhc_compile.passes.graph.values import STREAMS_OF
from mhc_compile.passes.split.scopes import Home, Scope


@dataclass(frozen=True)
class WholeCall:
    """What a module is called with, as nodes of the graph around it, and where the values lie in what it returns.

    Attributes:
        args: positional arguments.
        kwargs: keyword arguments.
        results: a node inside that is used outside -> the keys that lead to its value.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    results: Mapping[fx.Node, tuple[Any, ...]]


def call_whole(module: Any, *args: Any, **kwargs: Any) -> Any:
    """The call of a module that generated code makes."""
    return module(*args, **kwargs)


def close_whole_calls(graph: fx.Graph, found: dict[fx.Node, Home], paths: Collection[str]) -> frozenset[Scope]:
    """Cut the homes of nodes at the modules that are called as a whole, and take the marks of all others out.

    Args:
        graph: rewritten, with marks.
        found: the scopes around each node; changed.
        paths: names of the modules that are to be called as a whole.

    Returns:
        The calls that can be: streams lie inside of the others, such as a norm behind a residual connection.
    """
    marks = [node for node in graph.nodes if is_border(node)]
    of_streams = [n for n in found if STREAMS_OF in n.meta or "mhc" in n.meta]
    streamed = {_scope_called(found[node], paths) for node in of_streams}
    called = {_scope_called(found[node], paths) for node in marks} - streamed - {None}
    for node in list(found):
        scope = _scope_called(found[node], paths)
        if scope in called:
            found[node] = found[node][: found[node].index(scope) + 1]
    for node in marks:
        if _scope_called(found[node], paths) not in called:
            node.replace_all_uses_with(node.args[0])
            found.pop(node)
            graph.erase_node(node)
    return frozenset(scope for scope in called if scope is not None)


def _scope_called(home: Home, paths: Collection[str]) -> Scope | None:
    return next((scope for scope in home if scope.region is None and scope.path in paths), None)


def whole_call(path: str, nodes: Sequence[fx.Node], left_out: Collection[fx.Node]) -> WholeCall:
    """The call of a module that stands for these nodes.

    Args:
        path: name of the module.
        nodes: between its borders, marks included.
        left_out: nodes between the borders of all such calls: what they use need not be there, such as a number.

    Raises:
        ParallelError: something else than tensors, numbers and texts goes in, or a value leaves it by another way.
    """
    given = [node for node in nodes if is_border(node, True)]
    results = _results(path, [node for node in nodes if is_border(node, False)])
    own = set(nodes)
    for node in nodes:
        if node not in results and any(user not in own and user not in left_out for user in node.users):
            raise ParallelError(f"{path} hands on {node.name} by another way than its result{_ADVICE}")
    if not given:
        raise ParallelError(f"{path} is given no tensor{_ADVICE}")
    args, kwargs = _filled(path, str(given[0].args[1]), [node.args[0] for node in given])
    return WholeCall(args, kwargs, results)


_ADVICE = (
    ", so generated code cannot call it as a whole, which it has to where modules are distributed over several "
    "processes: hand tensors in and return them, or distribute the modules inside of it alone"
)


def _filled(path: str, form: str, tensors: list[Any]) -> Any:
    try:
        return filled(form, tensors)
    except UnknownValueError as error:
        raise ParallelError(f"a {error} goes into {path} or comes out of it{_ADVICE}") from error


def _results(path: str, marks: Sequence[fx.Node]) -> dict[fx.Node, tuple[Any, ...]]:
    if not marks:
        return {}
    places = [_Place(i) for i in range(len(marks))]
    value = _filled(path, str(marks[0].args[1]), places)
    ways = dict(_ways(value, ()))
    return {node: ways[int(str(node.args[2]))] for node in marks}


@dataclass(frozen=True)
class _Place:
    index: int


def _ways(value: Any, way: tuple[Any, ...]) -> Iterator[tuple[int, tuple[Any, ...]]]:
    if isinstance(value, _Place):
        yield value.index, way
        return
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (tuple, list)) else ()
    for key, inner in items:
        yield from _ways(inner, (*way, key))


def fetch(graph: fx.Graph, call: fx.Node, way: Sequence[Any]) -> fx.Node:
    """The value that lies at the end of a way of keys into the result of a call."""
    for key in way:
        call = graph.call_function(operator.getitem, (call, key))
    return call
