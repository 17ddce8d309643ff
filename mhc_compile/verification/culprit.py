"""Who is to blame for another result, PyTorch's trace, what is done to it, or the rewrite, and where it begins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, fx, nn

from mhc_compile._torch_compat import tree_flatten
from mhc_compile.capture.trace import capture
from mhc_compile.config import Config
from mhc_compile.passes.graph.values import module_path_of
from mhc_compile.passes.order import rewrite_graph
from mhc_compile.passes.plan.data import Plan
from mhc_compile.programs.variants import training_mode
from mhc_compile.twin.hyper_connections import HyperConnections
from mhc_compile.verification.calls import Call, copied
from mhc_compile.verification.compare import allowed, distance, floats
from mhc_compile.verification.formulas import formulas_of


class Values(fx.Interpreter):
    """Runs a graph and keeps every floating point tensor by the name of its node."""

    def __init__(self, gm: fx.GraphModule) -> None:
        super().__init__(gm)
        self.seen: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        """As the base class; what is written into later counts as it is now."""
        value = super().run_node(n)
        if isinstance(value, Tensor) and value.is_floating_point():
            self.seen[n.name] = value.detach().clone()
        return value


def seen_by(formulas: fx.Interpreter) -> dict[str, Tensor]:
    """Every floating point tensor that an oracle has computed, by the name of its node; of streams what is read out."""
    values = {n.name: value for n, value in formulas.env.items() if isinstance(value, Tensor)}
    return {name: value.detach() for name, value in values.items() if value.is_floating_point()}


def culprit(
    call: Call, original: nn.Module, gm: fx.GraphModule, plan: Plan, config: Config, new: HyperConnections
) -> str:
    """A sentence with the name of the first module that computes something else.

    Args:
        call: the call whose results differ.
        original: the model, not transformed.
        gm: its graph, not rewritten.
        plan: made from it.
        config: the options of the plan.
        new: the new parameters.
    """
    outputs, _ = tree_flatten(call.of(copied(original)))
    plain = Values(copied(gm))
    traced = call.of_graph(plain)
    if distance(outputs, traced) > allowed(outputs):
        where = next(_other_modules(call, copied(original), gm, plain.seen), "")
        if _is_traced_rightly(call, original, outputs):
            return f"the graph is wrong before it is rewritten{_at(where)}, {_OURS}"
        return f"PyTorch's own trace of the model computes something else{_at(where)}: it is not the rewrite"
    formulas = formulas_of(copied(gm), plan, config, new)
    call.of_graph(formulas)
    where = _first_other(call, gm, plan, config, new, seen_by(formulas))
    return f"the rewrite is wrong{_at(where)}, {_OURS}"


_OURS = "a defect of mhc_compile: please report it"


def _is_traced_rightly(call: Call, original: nn.Module, outputs: list[Any]) -> bool:
    """Whether the graph computes what the model does as it is captured, with no pass over it."""
    model, inputs = copied(original), call.inputs
    with training_mode(model, call.training):
        gm = capture(model, inputs.args, inputs.kwargs).gm
    return distance(outputs, call.of_graph(Values(gm))) <= allowed(outputs)


def _first_other(
    call: Call,
    gm: fx.GraphModule,
    plan: Plan,
    config: Config,
    new: HyperConnections,
    expected: Mapping[str, Tensor],
) -> str:
    """The module, or else the operator, with the first value of the rewritten graph that the formulas do not give."""
    rewritten = copied(gm)
    rewritten.add_module("hyper_connections", copied(new))
    values = Values(rewrite_graph(rewritten, plan, config))
    call.of_graph(values)
    node = next((n for n in gm.graph.nodes if _differs(expected, values.seen, n.name)), None)
    return "" if node is None else module_path_of(node) or node.name


def _at(where: str) -> str:
    return f", first in {where}" if where else ""


def _differs(plain: Mapping[str, Tensor], other: Mapping[str, Tensor], name: str) -> bool:
    """Whether a node that both graphs have, with a value of the same shape, has another one."""
    if name not in plain or name not in other or plain[name].shape != other[name].shape:
        return False
    return distance(plain[name], other[name]) > allowed(plain[name])


def _other_modules(call: Call, model: nn.Module, gm: fx.GraphModule, seen: Mapping[str, Tensor]) -> Iterator[str]:
    """Modules, inner ones first, whose result is none of the values that the graph has under their name."""
    values: dict[str, list[Tensor]] = {}
    for node in gm.graph.nodes:
        if node.name in seen:
            values.setdefault(module_path_of(node), []).append(seen[node.name])
    for path, result in _results(call, model):
        inside = [v for p, found in values.items() if p == path or p.startswith(f"{path}.") for v in found]
        if inside and all(v.shape != result.shape or distance(result, v) > allowed(result) for v in inside):
            yield path


def _results(call: Call, model: nn.Module) -> list[tuple[str, Tensor]]:
    """The first tensor that each call of a module returned, in the order in which they returned."""
    found: list[tuple[str, Tensor]] = []

    def keep(path: str) -> Any:
        def hook(module: nn.Module, args: Any, result: Any) -> None:
            found.extend((path, tensor.detach().clone()) for tensor in list(floats(result))[:1])

        return hook

    for path, module in model.named_modules():
        if path:
            module.register_forward_hook(keep(path))
    call.of(model)
    return found
