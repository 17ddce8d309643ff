"""Normalise a traced graph so that the other passes see pure sums: no in-place writes, and every add spelled out.

Numerics are untouched: every rewrite here computes the same values. A write whose effect is seen through another alias
cannot be removed; it stays, and its operand is reported by `observed_mutations` so that detection can say so.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx
from torch.multiprocessing.reductions import StorageWeakRef

from mhc_compile import _torch_compat as compat
from mhc_compile.passes.graph.gradients import gradient_modes
from mhc_compile.passes.graph.op_kinds import Kind, canonical_name, is_inplace, kind_of
from mhc_compile.passes.graph.spellings import can_place, place, spell_out, spell_out_lists
from mhc_compile.passes.graph.values import dtype_of, flat_nodes, value_of


def normalise(gm: fx.GraphModule) -> fx.GraphModule:
    """Make in-place writes functional where nobody can tell, and spell fused sums out. Changes `gm` in place."""
    spell_out_lists(gm)
    order, modes = {node: i for i, node in enumerate(gm.graph.nodes)}, gradient_modes(gm.graph.nodes)
    for node in list(gm.graph.nodes):
        is_free = is_inplace(node) and _has_functional_form(node) and not _observed(node, order)
        if is_free and not _is_past_gradients(node, modes):
            _make_functional(node, order)
    for node in list(gm.graph.nodes):
        spell_out(node)
    _drop_zeros(gm)
    _join_twins(gm)
    return gm


def observed_mutations(gm: fx.GraphModule) -> set[fx.Node]:
    """Nodes whose value is changed in place by a write that `normalise` could not remove."""
    written = {target for node in gm.graph.nodes if is_inplace(node) for target in flat_nodes(node.args[:1])}
    return {alias for target in written for alias in aliases(target)}


def _observed(node: fx.Node, order: dict[fx.Node, int]) -> bool:
    """Whether the write of `node` can be seen through anything but the operand's own name."""
    target = node.args[0] if node.args else node.kwargs.get("input")
    if not isinstance(target, fx.Node) or target.op in ("placeholder", "get_attr"):
        return True
    if _is_written_back(node, target):
        return False
    here = order[node]
    # Views taken after the write see the new value either way; only those taken before it can tell.
    others = [a for a in aliases(target) - {target, node} if order.get(a, here) < here]
    return any(a.op in ("placeholder", "get_attr") or _used_after(a, here, order, node) for a in others)


def _is_past_gradients(node: fx.Node, modes: Mapping[fx.Node, bool]) -> bool:
    """Whether a write under `no_grad` leaves a value the gradient that it has: a value made there would have none."""
    target = node.args[0] if node.args else node.kwargs.get("input")
    return not modes[node] and isinstance(target, fx.Node) and any(modes.get(a, True) for a in aliases(target) - {node})


def _is_written_back(node: fx.Node, part: fx.Node) -> bool:
    """Whether the next step puts the result where its operand came from, as in `y[i] += x`."""
    follows = node.next if canonical_name(node.next) == "setitem" else node
    is_alone = [*part.users] == [node] and [*node.users] == [follows]
    return is_alone and canonical_name(part) == "getitem" and follows.args == (*part.args, node)


def _used_after(alias: fx.Node, here: int, order: dict[fx.Node, int], write: fx.Node) -> bool:
    return any(order.get(user, here + 1) > here and user is not write for user in alias.users)


def aliases(node: fx.Node) -> set[fx.Node]:
    """Every node that may share memory with `node`: the bases it views and all views of those."""
    found, todo = {node}, [node]
    while todo:
        here = todo.pop()
        sources = [source for source in here.all_input_nodes if _shares(here, source)]
        views = [user for user in here.users if _shares(user, here)]
        new = {*sources, *views} - found
        found |= new
        todo.extend(new)
    return found


def _shares(view: fx.Node, source: fx.Node) -> bool:
    """Whether a node may give memory of one of its operands: as a view, as its result, or the operand itself."""
    if is_inplace(view) and view.args[:1] == (source,):
        return True
    kind = kind_of(view)
    may_alias = kind in (Kind.SHAPE, Kind.SELECT) or canonical_name(view) in _MAY_ALIAS
    if may_alias and source is view.all_input_nodes[0]:
        return True
    makes_new = kind in _NEW_MEMORY or view.op == "output"
    return not makes_new and not _memory(view).isdisjoint(_memory(source))


def _memory(node: fx.Node) -> frozenset[StorageWeakRef]:
    """The storages of the traced value: what no list of operators knows of `data`, `mH`, `ravel` and all others."""
    leaves, _ = compat.tree_flatten(value_of(node))
    tensors = (leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.layout is torch.strided)
    return frozenset(map(StorageWeakRef, map(torch.Tensor.untyped_storage, tensors)))


_NEW_MEMORY = frozenset({Kind.ADD, Kind.SUB, Kind.REDUCE, Kind.ALONG, Kind.NORM_LAST})

# Ops that can return their operand itself: casts to the same dtype, contiguous on contiguous, dropout in evaluation.
_MAY_ALIAS = frozenset({"to", "type", "type_as", "float", "half", "bfloat16", "double", "contiguous", "detach", "alias",
                        "identity", "dropout", "expand", "expand_as", "unfold", "diagonal", "as_strided", "real",
                        "imag", "getattr"})  # fmt: skip


def _make_functional(node: fx.Node, order: dict[fx.Node, int]) -> None:
    """Turn a write into a value: later uses of the operand see the value."""
    target = node.args[0]
    assert isinstance(target, fx.Node)
    here = order[node]
    for user in list(target.users):
        if user is not node and order.get(user, -1) > here:
            user.replace_input_with(target, node)
    _drop_inplace(node)
    before, after = dtype_of(target), dtype_of(node)
    if before is not None and after == before and any(_wider(a, before) for a in node.all_input_nodes):
        _append_cast(node, before)


def _has_functional_form(node: fx.Node) -> bool:
    """Whether dropping the underscore gives an op with the same arguments: `y.zero_()` has none."""
    if canonical_name(node) == "setitem":
        return can_place(node)
    if node.kwargs.get("inplace") is True or _inplace_argument(node):
        return True
    if node.op == "call_method":
        return hasattr(torch.Tensor, canonical_name(node))
    return _functional_target(node) is not None


def _drop_inplace(node: fx.Node) -> None:
    if canonical_name(node) == "setitem":
        place(node)
    elif node.kwargs.get("inplace") is True:
        node.kwargs = {**node.kwargs, "inplace": False}
    elif _inplace_argument(node):
        node.args = node.args[:-1]  # `inplace` was the last positional argument
    elif node.op == "call_method":
        node.target = str(node.target)[:-1]
    else:
        target = _functional_target(node)
        assert target is not None
        node.target = target


def _inplace_argument(node: fx.Node) -> bool:
    """Whether the node writes for no other reason than an argument `inplace=True`."""
    return node.op == "call_function" and canonical_name(node) == getattr(node.target, "__name__", None)


def _functional_target(node: fx.Node) -> Callable[..., Any] | None:
    name = canonical_name(node)
    if isinstance(node.target, compat.OpOverload):
        packet = getattr(getattr(torch.ops, node.target.namespace), name, None)
        overloads = [getattr(packet, o) for o in packet.overloads()] if packet is not None else []
        return next((o for o in overloads if _argument_types(o) == _argument_types(node.target)), None)
    written = str(getattr(node.target, "__name__", ""))
    homes = (home for home in (operator, torch, F) if getattr(home, written, None) is node.target)
    return next((getattr(home, name) for home in homes if hasattr(home, name)), None)


def _argument_types(op: Any) -> list[str]:
    return [str(argument.type) for argument in op._schema.arguments]


def _wider(node: fx.Node, dtype: torch.dtype) -> bool:
    other = dtype_of(node)
    return other is not None and torch.promote_types(other, dtype) != dtype


def _append_cast(node: fx.Node, dtype: torch.dtype) -> None:
    """An in-place op keeps its operand's dtype; the functional one may promote, so cast back."""
    with node.graph.inserting_after(node):
        cast = node.graph.call_method("to", (node, dtype))
    cast.meta = dict(node.meta)
    node.replace_all_uses_with(cast, delete_user_cb=lambda user: user is not cast)


def _drop_zeros(gm: fx.GraphModule) -> None:
    """`0 + x`, with which Python's `sum` starts, becomes x, unless one of the two is written to."""
    mutated = observed_mutations(gm)
    for node in list(gm.graph.nodes):
        terms = node.all_input_nodes
        if kind_of(node) is not Kind.ADD or len(node.args) != 2 or len(terms) != 1 or mutated & {node, *terms}:
            continue
        if any(type(a) is int and a == 0 for a in node.args) and dtype_of(node) == dtype_of(terms[0]):
            node.replace_all_uses_with(terms[0])
            gm.graph.erase_node(node)


_JOINS = frozenset({"cat", "concat", "concatenate", "stack"})


def _join_twins(gm: fx.GraphModule) -> None:
    """Parts that are concatenated twice, for the norm of a branch and for its skip, become one value.

    Else nothing would show that the branch is computed from the skip.
    """
    mutated, modes = observed_mutations(gm), gradient_modes(gm.graph.nodes)
    known: dict[object, fx.Node] = {}
    for node in list(gm.graph.nodes):
        if canonical_name(node) not in _JOINS or node in mutated:
            continue
        written = (node.op, node.target, node.args, tuple(node.kwargs.items()), dtype_of(node), modes[node])
        first = known.setdefault(written, node)
        if first is not node:
            node.replace_all_uses_with(first)
            gm.graph.erase_node(node)
