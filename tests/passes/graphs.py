"""Graphs to test the passes on: traced, with shapes, normalised, each step on its own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

from mhc_compile.capture.trace import capture
from mhc_compile.config import Config
from mhc_compile.passes.graph.ancestry import Ancestry
from mhc_compile.passes.graph.normalise import normalise
from mhc_compile.passes.order import make_plan, rewrite_graph
from mhc_compile.passes.plan.data import Plan
from mhc_compile.programs.specs import initial_sites
from mhc_compile.twin.hyper_connections import HyperConnections
from mhc_compile.verification.formulas import formulas_of
from tests.passes.layers import Net, tokens
from tests.passes.shapes import SHAPES


def traced(model: nn.Module, *inputs: Tensor, front_end: str = "symbolic") -> fx.GraphModule:
    """The model's graph with a fake value on every node."""
    if front_end == "dynamo":
        return capture(model, inputs).gm
    if front_end == "export":
        return torch.export.export(model, inputs).module()
    gm = fx.symbolic_trace(model)
    FakeTensorProp(gm, FakeTensorMode(allow_non_fake_inputs=True)).propagate(*inputs)
    return gm


def graph_of(model: nn.Module, *inputs: Tensor, front_end: str = "symbolic") -> Ancestry:
    """The normalised graph, ready for detection."""
    return Ancestry(normalise(traced(model, *inputs, front_end=front_end)))


def plan_of(model: nn.Module, *inputs: Tensor, front_end: str = "symbolic", **options: Any) -> Plan:
    """The plan for the graph of one front end."""
    return make_plan(traced(model, *inputs, front_end=front_end), Config(**options))


def captured(name: str) -> tuple[fx.GraphModule, nn.Module, tuple[Tensor, ...]]:
    """The graph that Dynamo captures of one of SHAPES, the model and its inputs; copies, for it is captured once."""
    return copy.deepcopy(_captured(name))


@cache
def _captured(name: str) -> tuple[fx.GraphModule, nn.Module, tuple[Tensor, ...]]:
    model, inputs = SHAPES[name].make()
    gm = capture(model, inputs).gm
    return fx.GraphModule(gm, gm.graph), model, inputs  # without the fake tensors that Dynamo leaves beside the graph


def rewritten(
    model: nn.Module, *inputs: Tensor, front_end: str = "symbolic", **options: Any
) -> tuple[fx.GraphModule, Plan]:
    """The graph after all passes, runnable, over the model's own parameters; checked by `lint`."""
    return passed(traced(model, *inputs, front_end=front_end), model, **options)


def passed(gm: fx.GraphModule, model: nn.Module, **options: Any) -> tuple[fx.GraphModule, Plan]:
    """`rewritten` of a graph that is traced already, and is changed."""
    config = Config(**options)
    plan = make_plan(gm, config)
    gm.add_module("hyper_connections", HyperConnections(initial_sites([plan], config, model), config))
    rewrite_graph(gm, plan, config).graph.lint()
    gm.recompile()
    return gm, plan


def flat(outputs: Any) -> list[Tensor]:
    """The tensors among the outputs of a model."""
    return [t for t in torch.utils._pytree.tree_leaves(outputs) if isinstance(t, Tensor)]


def error(new: Any, old: Any) -> float:
    """Largest error of any output, in units of the root mean square of that output."""
    pairs = list(zip(flat(new), flat(old), strict=True))
    assert pairs
    assert [a.shape for a, _ in pairs] == [b.shape for _, b in pairs]
    errors = [((a - b).abs().max() / b.square().mean().sqrt()).detach() for a, b in pairs]
    return float(torch.stack(errors).max())  # not Python's, which loses a NaN behind a number


def preserved(model: nn.Module, *inputs: Tensor, front_end: str = "symbolic", **options: Any) -> tuple[float, Plan]:
    """The error of the rewritten graph, and its plan; every run gets its own copy of the inputs."""
    expected = copy.deepcopy(model)(*copy.deepcopy(inputs))
    gm, plan = rewritten(model, *copy.deepcopy(inputs), front_end=front_end, **options)
    return error(gm(*copy.deepcopy(inputs)), expected), plan


def reasons(plan: Plan) -> list[str]:
    """Names of the reasons of all rejected sums, in graph order."""
    return [r.reason.name for r in plan.rejected]


def build(make: Callable[[fx.Graph], Any], **inputs: Tensor) -> fx.GraphModule:
    """A graph written by hand: `make` gets the graph and one placeholder per input, and returns the output."""
    graph = fx.Graph()
    nodes = [graph.placeholder(name) for name in inputs]
    graph.output(make(graph, *nodes))
    gm = fx.GraphModule(nn.Module(), graph)
    FakeTensorProp(gm, FakeTensorMode(allow_non_fake_inputs=True)).propagate(*inputs.values())
    return gm


def trained(
    model: nn.Module, *inputs: Tensor, front_end: str = "symbolic", noise: float = 0.5, **options: Any
) -> tuple[float, Plan]:
    """The error of the rewritten graph against the oracle, with new parameters that noise has moved."""
    gm, config = traced(model, *copy.deepcopy(inputs), front_end=front_end), Config(**options)
    plan = make_plan(gm, config)
    plain = fx.GraphModule(gm, copy.deepcopy(gm.graph))
    child = HyperConnections(initial_sites([plan], config, model), config)
    move(child, noise)
    gm.add_module("hyper_connections", child)
    rewrite_graph(gm, plan, config).graph.lint()
    gm.recompile()
    with torch.no_grad():
        expected = formulas_of(plain, plan, config, child).run(*copy.deepcopy(inputs))
        return error(gm(*copy.deepcopy(inputs)), expected), plan


def move(parameters: nn.Module, noise: float = 0.5) -> None:
    """Stand for training: no parameter stays where it began."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in parameters.parameters():
            p.add_(noise * torch.randn(p.shape, generator=generator, dtype=p.dtype))


def found(
    body: Callable[..., Any], *inputs: Tensor, kind: type[Net] = Net, **layers: Any
) -> tuple[tuple[int, int], Plan]:
    """`(sites, segments)` and the plan of `body` over layers, checked against the oracle."""
    torch.manual_seed(0)
    model = kind(body, **layers).double()
    difference, plan = trained(model, *(inputs or (tokens(),)))
    assert difference < 1e-9
    assert sum(len(part.adds) for part in (*plan.sites, *plan.rejected)) == plan.float_adds
    return (len(plan.sites), len(plan.segments)), plan
