"""Calls of a model with hyper-connections, observed: its own code runs, with functions that also look.

A transformed model has generated code, of which a copy runs in its place for the call. What Dynamo runs, a model behind
`mhc_compile.backend` or a call that is no one graph, is compiled once more, for an inner backend that looks.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn

from mhc_compile import _torch_compat as compat
from mhc_compile.config import Config
from mhc_compile.diagnostics.collector import Collector
from mhc_compile.dynamo.backend import Backend
from mhc_compile.dynamo.inner import InnerChoice
from mhc_compile.dynamo.new_parameters import connections_of
from mhc_compile.errors import NotTransformedError
from mhc_compile.passes.plan.data import Plan
from mhc_compile.programs.dispatch import Entry
from mhc_compile.programs.linking import substituted
from mhc_compile.programs.ownership import Served
from mhc_compile.programs.program import Program
from mhc_compile.programs.untransformed import check_module
from mhc_compile.twin.hyper_connections import HyperConnections
from mhc_compile.twin.module_tree import original_class
from mhc_compile.twin.owned import Owner

Others = Mapping[Callable[..., Any], Callable[..., Any]]


@dataclass(frozen=True)
class Found:
    """A model with hyper-connections inside the one that was given.

    Attributes:
        prefix: what its site keys begin with, "" for the model itself.
        module: the model: transformed, a stage of a pipeline, or one behind `mhc_compile.backend`.
    """

    prefix: str
    module: nn.Module

    @property
    def connections(self) -> HyperConnections:
        """Its new parameters, the copy that is in use."""
        child = connections_of(self.module)
        assert child is not None
        return child.itself

    @property
    def config(self) -> Config:
        """The options that it was made with."""
        return self.module._mhc.config if isinstance(self.module, Owner) else self.connections.config


def find_models(model: object) -> tuple[Found, ...]:
    """The models with hyper-connections in a module, or in what `torch.compile` or a wrapper has made of it.

    Raises:
        NotAModuleError: it is no module.
        NotTransformedError: there are none.
    """
    module = compat.unwrapped(check_module(model))
    named = [(name, m) for name, m in module.named_modules() if connections_of(m) is not None]
    found = tuple(Found(f"{name}." if len(named) > 1 and name else "", m) for name, m in named)
    if not found:
        raise NotTransformedError(
            f"{type(module).__name__} has no hyper-connections to look at: pass what mhc_compile.transform returned, "
            "or a model behind mhc_compile.backend after backend.attach(model, example_inputs) or its first call"
        )
    return found


Plans = Callable[[], Sequence[Plan]]
"""The plans of the code that runs; of what Dynamo compiles they come while it runs."""


@contextmanager
def observing(found: Found, collect: Callable[[Plans], Collector]) -> Iterator[Collector]:
    """In the block, calls of a model are observed, also where it was compiled; the first time of each site counts.

    Compiled code of anything else runs uncompiled meanwhile, too.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        if not isinstance(found.module, Owner):
            yield stack.enter_context(_observed_by_dynamo(found, collect))
            return
        plans = found.module._mhc.plans
        collector = collect(lambda: plans)
        others = collector.substitutes()
        if isinstance(found.module, Served):
            for entry in found.module._mhc.entries.values():
                stack.enter_context(_observed_entry(found.module, entry, others))
        else:
            stack.enter_context(_observed_stage(found.module, others))
        yield collector


@contextmanager
def _observed_entry(owner: Served, entry: Entry, others: Others) -> Iterator[None]:
    programs, fallback = list(entry.programs), entry.fallback
    observed = [_observed(program, others) for program in programs]
    for old, new in zip(programs, observed, strict=True):
        if id(old) in entry.bound:
            entry.bound[id(new)] = entry.bound[id(old)]
    entry.programs[:] = observed
    if entry.kinds:
        from mhc_compile.model.fallback import Fallback  # late, for it imports Dynamo

        entry.fallback = Fallback(owner, entry.path, inner=observing_inner(others))
    try:
        yield
    finally:
        entry.programs[:] = [*programs, *entry.programs[len(observed) :]]
        entry.fallback = fallback
        for new in observed:
            entry.bound.pop(id(new), None)


def _observed(program: Program, others: Others) -> Program:
    return replace(program, function=substituted(program.function, others))


@contextmanager
def _observed_stage(stage: Any, others: Others) -> Iterator[None]:
    programs = list(stage.mhc_stage.programs)
    stage.mhc_stage.programs[:] = [(state, _observed(program, others)) for state, program in programs]
    try:
        yield
    finally:
        stage.mhc_stage.programs[:] = programs


def observing_inner(others: Others) -> Callable[..., Any]:
    """An inner backend that runs graphs as they are, but for the functions in `others`."""

    def inner(gm: fx.GraphModule, example_inputs: Any) -> Callable[..., Any]:
        for part in _parts(gm):
            for node in part.graph.nodes:
                if node.op == "call_function":
                    node.target = others.get(node.target, node.target)
            part.recompile()
        return gm.forward

    return inner


@contextmanager
def _observed_by_dynamo(found: Found, collect: Callable[[Plans], Collector]) -> Iterator[Collector]:
    """Calls of a model behind `mhc_compile.backend` are compiled anew, over its parameters."""
    from mhc_compile.dynamo.alone import compiled_alone  # late: nobody else needs Dynamo here

    module, backend = found.module, _backend_of(found)
    collector = collect(lambda: [record.plan for record in backend.records])
    backend.inner = InnerChoice(observing_inner(collector.substitutes()))
    compiled = compiled_alone(module, original_class(module).forward, backend)

    def forward(*args: Any, **kwargs: Any) -> Any:
        with torch.compiler.set_stance("default"):
            return compiled(*args, **kwargs)

    before = vars(module).get("forward", _MISSING)
    vars(module)["forward"] = forward
    try:
        yield collector
    finally:
        del vars(module)["forward"]
        vars(module).update({} if before is _MISSING else {"forward": before})


_MISSING = object()


def _backend_of(found: Found) -> Backend:
    """A backend for the sites that the model has, and no others."""
    config = replace(found.config, include=tuple(found.connections.weights), exclude=(), strict=False)
    backend = Backend(config, InnerChoice("eager"))
    backend._held.take(found.module)
    backend._held.claims = copy.deepcopy(dict(backend._held.claims))  # what is traced here claims no keys
    return backend


def _parts(gm: fx.GraphModule) -> list[fx.GraphModule]:
    """A graph, and the bodies of its checkpointed blocks."""
    return [part for part in gm.modules() if isinstance(part, fx.GraphModule)]
