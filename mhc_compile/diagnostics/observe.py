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


class Observer:
    """Observes calls of one model, again and again."""

    def __init__(self, found: Found, tokens: int, on_site: Callable[[str], None] = lambda key: None) -> None:
        """Look at so many tokens per site at most; `on_site` is told the key of each site as it runs."""
        self.found = found
        self._tokens, self._on_site = tokens, on_site
        self._dynamo: _ByDynamo | None = None

    def plans(self) -> Sequence[Plan]:
        """The plans of the code that runs; of what Dynamo compiles they come while it runs."""
        if isinstance(self.found.module, Owner):
            return self.found.module._mhc.plans
        return () if self._dynamo is None else [record.plan for record in self._dynamo.backend.records]

    @contextmanager
    def observing(self) -> Iterator[Collector]:
        """In the block, calls are observed, also of a model that was compiled; the first time of each site counts.

        Compiled code of anything else runs uncompiled meanwhile, too.
        """
        module, collector = self.found.module, self._new_collector()
        with ExitStack() as stack:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
            if isinstance(module, Served):
                for entry in module._mhc.entries.values():
                    stack.enter_context(_observed_entry(module, entry, collector.substitutes()))
            elif isinstance(module, Owner):
                stack.enter_context(_observed_stage(module, collector.substitutes()))
            else:
                self._dynamo = self._dynamo or _ByDynamo(self.found, collector)
                collector = stack.enter_context(self._dynamo.observing())
            yield collector

    def _new_collector(self) -> Collector:
        return Collector(self.found.connections, self.plans, self._tokens, self._on_site)


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

        entry.fallback = Fallback(owner, entry.path, inner=observing_inner(others), method=entry.method)
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


class _ByDynamo:
    """A model behind `mhc_compile.backend`, compiled over its parameters for an inner backend that looks.

    Attributes:
        backend: what has compiled it.
    """

    def __init__(self, found: Found, collector: Collector) -> None:
        from mhc_compile.dynamo.alone import compiled_alone  # late: nobody else needs Dynamo here

        self.backend = _backend_of(found)
        self.backend.inner = InnerChoice(observing_inner(collector.substitutes()))
        self._module, self._collector = found.module, collector
        self._compiled = compiled_alone(found.module, original_class(found.module).forward, self.backend)

    @contextmanager
    def observing(self) -> Iterator[Collector]:
        self._collector.restart()
        attributes = vars(self._module)
        before = attributes.get("forward", _MISSING)
        attributes["forward"] = self._forward
        try:
            yield self._collector
        finally:
            del attributes["forward"]
            attributes.update({} if before is _MISSING else {"forward": before})

    def _forward(self, *args: Any, **kwargs: Any) -> Any:
        with torch.compiler.set_stance("default"):
            return self._compiled(*args, **kwargs)


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
