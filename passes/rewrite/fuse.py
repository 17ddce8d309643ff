"""Replace the separate calls of a rewritten graph by the fused steps of its plan.

The rewrite emits coefficients, read and write per site, and marks each with its site and role. This pass only looks
those marks up: what is fused was decided, and can be read, in `plan.steps`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from torch import fx

from mhc_compile.kernels.formulas.connections import find
from mhc_compile.kernels.operators import single_pass
from mhc_compile.kernels.operators import streams as kernels
from mhc_compile.passes.plan.data import Plan
from mhc_compile.passes.plan.steps import Step, StepKind


def fuse(gm: fx.GraphModule, plan: Plan) -> fx.GraphModule:
    """Carry out `plan.steps` on the graph that `rewrite_planned` made from the same plan, in place."""
    fuser = _Fuser(gm.graph, plan)
    for step in plan.steps:
        if step.kind is not StepKind.PLAIN:
            fuser.apply(step)
    return gm


class _Fuser:
    """`calls[site, role]` are the calls of the rewrite, `mix[site]` the packed coefficients that replace theirs.

    Under single-pass connections, `pre[site]` are the packed read weights, which go to the next boundary. Whoever else
    reads with them is given them unpacked.
    """

    def __init__(self, graph: fx.Graph, plan: Plan) -> None:
        self.graph, self.plan = graph, plan
        self.single = find(plan.connection, plan.n).single_pass
        self.kernels: Any = single_pass if self.single else kernels
        self.names = {name: f"single_{name}" if self.single else name for name in ("gate", "boundary", "leave")}
        self.pre: dict[str, fx.Node] = {}
        marked = [node for node in graph.nodes if "mhc" in node.meta]
        self.calls = {(n.meta["mhc"]["site"], n.meta["mhc"]["role"]): n for n in marked}
        self.mix: dict[str, fx.Node] = {}

    def apply(self, step: Step) -> None:
        """Emit the fused call of one step where its last part was, and erase its parts."""
        if step.kind in (StepKind.ENTRY, StepKind.GATE):
            self._gate(step)
        elif step.kind is StepKind.BOUNDARY:
            self._boundary(step)
        elif step.kind is StepKind.WRITE:
            write = self.calls[step.writes, "write"]
            self._replace(write, self._writing(write, step, "write_packed"))
            self._drop_coefficients(step.writes)
        else:
            self._leave(step)

    def _gate(self, step: Step) -> None:
        old = self.calls[step.gates, "coefficients"]
        entry = "" if old.target is kernels.coefficients else "entry_"
        call = self._emit(old, getattr(self.kernels, entry + self.names["gate"]), old.args, dict(old.kwargs), step)
        self._take_over(step, call, 0)

    def _boundary(self, step: Step) -> None:
        write, old = self.calls[step.writes, "write"], self.calls[step.gates, "coefficients"]
        for parameter in old.args[1]:  # the boundary stands where the write was, in front of all other readers
            write.prepend(parameter)
        connection = old.kwargs["connection"]
        call = self._writing(write, step, self.names["boundary"], params=old.args[1], connection=connection)
        following = self._item(call, write, 0, f"{write.name}_next")
        self._take_over(step, call, 1)
        self._replace(write, following)
        self._drop_coefficients(step.writes)

    def _leave(self, step: Step) -> None:
        write = self.calls[step.writes, "write"]
        (readout,) = write.users
        if readout.target is kernels.read:  # with the weights of the site that writes
            call = self._writing(write, step, self.names["leave"], at=readout)
        else:
            call = self._writing(write, step, "leave", at=readout, how=readout.kwargs["how"])
        self._replace(readout, call)
        self.graph.erase_node(write)
        self._drop_coefficients(step.writes)

    def _writing(
        self, write: fx.Node, step: Step, name: str, *, at: fx.Node | None = None, params: Any = None, **constants: Any
    ) -> fx.Node:
        """A step that begins with the write of a site: the same operands, its coefficients packed."""
        constants["axis"] = self.plan.site(step.writes).channel_axis
        operands = [*write.args[:2], self.mix[step.writes]]
        if name.startswith("single_"):
            operands.append(self.pre[step.writes])
        if params is not None:
            operands.append(params)
        target = self.kernels if name.startswith("single_") else kernels
        if write.target is kernels.entry_write:
            name, constants["n"] = f"entry_{name}", self.plan.n
        return self._emit(at or write, getattr(target, name), tuple(operands), constants, step)

    def _take_over(self, step: Step, call: fx.Node, first: int) -> None:
        """The results of a gate from index `first` on: what is read, or its read weights, then packed coefficients."""
        old, last = self.calls[step.gates, "coefficients"], call
        while last.next.target is operator.getitem and last.next.args[0] is call:
            last = last.next
        if not self.single or first:
            read = self.calls[step.gates, "read"]
            last = self._item(call, last.next, first, read.name)
            self._replace(read, last)
            first += 1
        if self.single:
            last = self.pre[step.gates] = self._item(call, last.next, first, f"{old.name}_pre")
            first += 1
        self.mix[step.gates] = self._item(call, last.next, first, f"{old.name}_mix")

    def _drop_coefficients(self, key: str) -> None:
        if self.single:
            self._unpack(key)
        for role in ("pre", "post", "mixing", "coefficients"):
            self.graph.erase_node(self.calls[key, role])

    def _unpack(self, key: str) -> None:
        """Give those that read with the weights of a site on their own the packed ones, as they take them."""
        pre, old = self.calls[key, "pre"], self.calls[key, "coefficients"]
        if not pre.users:
            return
        name = "read_weights" if old.target is kernels.coefficients else "entry_read_weights"
        with self.graph.inserting_after(self.pre[key]):
            weights = self.graph.call_function(
                getattr(single_pass, name), (self.pre[key], old.args[0]), {"axis": old.kwargs["axis"]}
            )
        weights.meta.update(pre.meta)
        weights.meta["mhc"] = {"site": key, "role": "read_weights"}
        pre.replace_all_uses_with(weights)

    def _item(self, call: fx.Node, before: fx.Node, index: int, name: str) -> fx.Node:
        with self.graph.inserting_before(before):
            item = self.graph.create_node("call_function", operator.getitem, (call, index), name=name)
        item.meta.update({k: v for k, v in call.meta.items() if k not in ("val", "example_value")})
        return item

    def _emit(self, at: fx.Node, target: Callable[..., Any], args: Any, kwargs: dict[str, Any], step: Step) -> fx.Node:
        role = step.kind.name.lower()
        with self.graph.inserting_before(at):
            call = self.graph.create_node("call_function", target, args, kwargs, name=f"{at.name}_{role}")
        call.meta.update(at.meta)
        call.meta["mhc"] = {"site": step.writes or step.gates, "role": role, "gates": step.gates}
        return call

    def _replace(self, old: fx.Node, new: fx.Node) -> None:
        old.replace_all_uses_with(new)
        self.graph.erase_node(old)
