"""One graph of Dynamo's, compiled: rewritten for each module that it is called for, and handed to the inner backend."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import fx, nn

from mhc_compile import _torch_compat as compat
from mhc_compile.dynamo.attached import Held
from mhc_compile.dynamo.frame import Origin, compiled_module, find_model, origin_of, traced_code
from mhc_compile.dynamo.frozen import as_compiled, watched
from mhc_compile.dynamo.graph_form import OpenGraph, close_graph, describe_added
from mhc_compile.dynamo.inner import Compiled, Inner
from mhc_compile.dynamo.instances import Instances, Served
from mhc_compile.dynamo.new_parameters import connections_of, slots_of
from mhc_compile.dynamo.plans import check_cut, examine, warn_of_limit, warn_of_loose_weights
from mhc_compile.dynamo.state_names import name_state
from mhc_compile.errors import SecondModelError
from mhc_compile.passes.plan.data import Plan
from mhc_compile.programs.coverage import warn_of_joined
from mhc_compile.programs.nothing_found import warn_of_nothing


def compile_graph(gm: fx.GraphModule, example_inputs: Sequence[Any], inner: Inner, held: Held) -> Compiled:
    """A function of the inputs of `gm` that computes it with hyper-connections.

    Args:
        gm: a graph that Dynamo handed to a backend; left as it is.
        example_inputs: its inputs.
        inner: compiles the rewritten graph.
        held: the model, and its new parameters.

    Raises:
        MhcError: whatever a user has to put right.
    """
    model = held.model_for(find_model(gm))
    warn_of_loose_weights(gm)
    if model is None or held.is_done(model):  # nothing to widen, or done already
        return inner(gm, example_inputs)
    graph = _Graph(gm, held)
    check_cut(graph.origin, held.config)
    warn_of_limit(gm)
    first = graph.rewritten(example_inputs, model)
    if not first.sites and not held.config.chooses:
        return inner(gm, example_inputs)
    graph.codes[first.sites] = graph.compiled(first, example_inputs, model, inner)
    instances = Instances(first.positions, graph.learn)
    instances.add(example_inputs, graph.served(first, model))
    return instances.function()


@dataclass(frozen=True)
class _Rewritten:
    """A graph for the inner backend.

    Attributes:
        gm: the graph.
        plan: what was rewritten in it.
        names: the parameters (under `hyper_connections`) that it takes behind Dynamo's inputs.
        positions: the inputs that tell the modules apart which it may be called for.
        roots: paths of the modules through which Dynamo reaches the state in it.
    """

    gm: fx.GraphModule
    plan: Plan
    names: tuple[str, ...]
    positions: tuple[int, ...]
    roots: tuple[str, ...]

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the adds that were rewritten."""
        return tuple(site.add for site in self.plan.sites)


class _Graph:
    """A graph of Dynamo's and what was made of it. It keeps no model alive: Dynamo keeps what it compiled.

    Attributes:
        origin: where it was traced.
        codes: compiled code by the sites it rewrites; where others were left out, the graph runs as it is.
    """

    def __init__(self, gm: fx.GraphModule, held: Held) -> None:
        self.origin: Origin = origin_of(gm)
        self.codes: dict[tuple[str, ...], Compiled] = {}
        self._gm, self._held = gm, held
        self._made: weakref.WeakKeyDictionary[nn.Module, dict[Any, _Rewritten]] = weakref.WeakKeyDictionary()

    def compiled(self, made: _Rewritten, inputs: Sequence[Any], model: nn.Module, inner: Inner) -> Compiled:
        """Code of the inner backend, which Dynamo forgets when a parameter is trained that was frozen for it."""
        child, frame, traced = connections_of(model), self.origin.frame, traced_code()
        seen: set[tuple[str, int]] = set() if child is None else child.unfrozen

        def forget(positions: Sequence[int]) -> None:
            seen.update((frame, i) for i in positions)
            if traced is not None:
                compat.remove_from_cache(traced)

        now = [holder[name] for holder, name in slots_of(model, made.names)]
        parameters = as_compiled(now, {i for where, i in seen if where == frame})
        code = inner(made.gm, [*inputs, *describe_added(made.gm, parameters, inputs)])
        return watched(code, made.gm, parameters, forget)

    def learn(self, inputs: Sequence[Any]) -> Served:
        """What serves a call with other weights than before."""
        model = self._held.model_for(compiled_module())
        if model is None:
            raise SecondModelError(
                "the model that this graph was compiled for is gone: write torch.compiler.reset() before using "
                "what was compiled for it with another model"
            )
        made = self.rewritten(inputs, model)
        self.codes.setdefault(made.sites, made.gm)
        return self.served(made, model)

    def rewritten(self, inputs: Sequence[Any], model: nn.Module) -> _Rewritten:
        """The graph over the parameters of the modules whose weights are among `inputs`, which are created."""
        names = name_state(self._gm.graph.find_nodes(op="placeholder"), inputs, model)
        key = (tuple(names.names.values()), names.foreign, names.tied)
        made = self._made.setdefault(model, {})
        if key not in made:
            made[key] = self._rewrite(inputs, model)
        elif made[key].names:
            self._held.create(model, made[key].plan)
        return made[key]

    def served(self, made: _Rewritten, model: nn.Module) -> Served:
        """Code and parameters for one model."""
        code = self.codes[made.sites]
        if self._held.expects:
            code = _at_second_call(self._held.first_call_over, code)
        slots = slots_of(model, made.names)
        return Served(code, slots, _still_there(model, made.roots) if slots else None, made.positions)

    def _rewrite(self, inputs: Sequence[Any], model: nn.Module) -> _Rewritten:
        held = self._held
        opened, record = examine(
            self._gm, inputs, self.origin, model, held.config, held.claims, held.others(self.origin)
        )
        warn_of_joined(record.plan, held.compiled(self.origin))
        held.records.append(record)
        positions = opened.positions(_telling_apart(opened, record.plan, held.config.chooses))
        made = _Rewritten(self._gm, record.plan, (), positions, opened.roots)
        if record.plan.sites:
            from mhc_compile.passes.order import rewrite_graph  # late

            held.create(model, record.plan)
            rewrite_graph(opened.gm, record.plan, held.config)
            closed, names = close_graph(opened)
            made = replace(made, gm=closed, names=tuple(names))
        elif record.origin.whole and connections_of(model) is None and not any(r.plan.sites for r in held.records):
            warn_of_nothing(record.plan, held.config)
        if record.origin.whole and record.found:
            held.first_call_over()
        return made


def _telling_apart(opened: OpenGraph, plan: Plan, chooses: bool) -> list[str]:
    """The inputs by which to tell for which modules a graph is called.

    All parameters: any of them may be tied to another module's between two calls. Buffers, which some models replace at
    every call, are looked at only where all weights of a site are tied already, or globs choose among the modules.
    """
    if chooses or any(opened.tied.issuperset(site.weights) for site in plan.sites):
        return list(opened.inputs)
    looked_at = opened.parameters.union(*(site.weights for site in plan.sites))
    return [name for name in opened.inputs if name in looked_at]


def _still_there(model: nn.Module, roots: Sequence[str]) -> Callable[[], bool]:
    """Whether `hyper_connections` and modules are where they were: they may be replaced, adapters switched."""
    owner, child = weakref.ref(model), connections_of(model)
    places = [(root.split("."), weakref.ref(model.get_submodule(root))) for root in roots if root]

    def current() -> bool:
        alive = owner()
        return alive is None or (
            connections_of(alive) is child and all(_module_at(alive, path) is there() for path, there in places)
        )

    return current


def _module_at(model: nn.Module, path: Sequence[str]) -> nn.Module | None:
    """What `get_submodule` finds, without its checks, for this is asked at every call."""
    here: nn.Module | None = model
    for part in path:
        here = None if here is None else here._modules.get(part)
    return here


def _at_second_call(report: Callable[[], None], code: Compiled) -> Compiled:
    """Behind graph breaks nothing else tells that the first call of the model is over."""
    calls = itertools.count()

    def call(*inputs: Any) -> Any:
        if next(calls) == 1:
            report()
        return code(*inputs)

    return call
