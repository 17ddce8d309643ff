"""The model of a backend, and the new parameters it holds."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import nn

from mhc_compile.config import Config
from mhc_compile.dynamo.compiled_doors import Compile, attach_doors
from mhc_compile.dynamo.frame import Origin
from mhc_compile.dynamo.holders import owner_of, second_model
from mhc_compile.dynamo.new_parameters import Claims, connections_of, create, fill, names_of
from mhc_compile.dynamo.plans import GraphRecord, warn_of_unmatched
from mhc_compile.errors import NoParametersYetError, OtherParametersError, ParallelError, UnusedParametersWarning
from mhc_compile.passes.plan.data import Plan
from mhc_compile.programs.ownership import Served
from mhc_compile.twin.header import KEY
from mhc_compile.twin.hyper_connections import CHILD, HyperConnections
from mhc_compile.twin.parallel import is_parallel
from mhc_compile.wording import count_text, names_text

COMPILED = "_orig_mod."
"""What the result of `torch.compile` puts before the names of its model."""


class Held:
    """One model, known from `attach` or from the first graph. The parameters belong to it, not to the backend.

    Attributes:
        config: options of the rewrite.
        several: whether another model may take the place of the first.
        claims: see `mhc_compile.dynamo.plans.examine`.
        records: what was found in each graph that was compiled, in order.
        surveyed: the same of those that were only looked at, by `attach`.
    """

    def __init__(self, config: Config, compile_alone: Compile, *, several: bool) -> None:
        """Hold none yet."""
        self.config, self.several = config, several
        self._compile_alone = compile_alone
        self.claims: Claims = {}
        self.records: list[GraphRecord] = []
        self.surveyed: list[GraphRecord] = []
        self._model: Callable[[], nn.Module | None] = lambda: None
        self._loaded: dict[str, torch.Tensor] = {}
        self._complete = False

    def compiled(self, origin: Origin) -> list[Plan]:
        """The plans of what was compiled of the same function in other modes and for other shapes."""
        return [r.plan for r in self.records if r.origin.function == origin.function]

    def others(self, origin: Origin) -> list[Plan]:
        """The same, and what `attach` has seen."""
        return [*(record.plan for record in self.surveyed), *self.compiled(origin)]

    def take(self, model: nn.Module) -> None:
        """Hold this model.

        Raises:
            SecondModelError: there is another one.
        """
        known = self._model()
        if known is not None and known not in set(model.modules()) and not self.several:
            raise second_model(known, type(model).__name__)
        if known is not model:
            self._complete = False
            self.surveyed.clear()
        self._model = weakref.ref(model)
        child = connections_of(model)
        self.claims = {} if child is None else child.graphs

    def model_for(self, found: nn.Module | None) -> nn.Module | None:
        """The model that a call of `found` is about: it may be compiled in parts, or inside a wrapper.

        Raises:
            SecondModelError: `found` has nothing to do with the model held.
            OtherParametersError: see `owner_of`.
        """
        known = self._model()
        if found is None or (known is not None and found in set(known.modules())):
            return known
        inside = known in set(found.modules())
        if known is not None and inside and (isinstance(known, Served) or connections_of(known) is not None):
            return known
        if known is None or inside or self.several:
            found = owner_of(found)
        self.take(found)
        return found

    def is_done(self, model: nn.Module) -> bool:
        """Whether the code of a model holds its streams already."""
        return isinstance(model, Served)

    def create(self, model: nn.Module, plan: Plan) -> None:
        """Give the model the parameters it lacks for a plan, with the values that were loaded for them.

        Raises:
            MhcError: as for `mhc_compile.dynamo.new_parameters.create`.
            ParallelError: the model is distributed by something else than `fully_shard`.
        """
        if plan.sites and is_parallel([*model.modules()]):
            raise ParallelError(
                f"{type(model).__name__} is distributed over several processes, and a backend of torch.compile does "
                "not know whose gradients have to be added up: write model = mhc_compile.transform(model, ...), and "
                "compile that or its blocks"
            )
        create(model, plan, self.config, self.claims)
        if self._loaded and plan.sites:
            fill(self._child(), self._loaded)

    def create_all(self, model: nn.Module, plans: Sequence[Plan]) -> None:
        """The same for all plans of a model, behind which there are no others.

        Raises:
            MhcError: as for `mhc_compile.dynamo.new_parameters.create`; `OtherParametersError` also for loaded values
                of no site.
        """
        child = connections_of(model)
        names = {name for plan in plans for name in names_of(plan, self.config)}
        _check_taken(self._loaded, names | set(child.state_dict() if child is not None else ()))
        for plan in plans:
            self.create(model, plan)
        # Not where parameters appear with the first call: guards that Dynamo is about to make count the base classes.
        attach_doors(model, [site.module for plan in plans for site in plan.sites], self.config, self._compile_alone)
        self._complete = True

    def first_call_over(self) -> None:
        """Say, once, what none of the graphs took so far: loaded values, globs."""
        if not self._complete:
            self._complete = True
            self._warn_of_loaded()
            if not self.several:
                warn_of_unmatched(self.records, self.config)

    @property
    def expects(self) -> bool:
        """Whether `first_call_over` still has something to say."""
        return not self._complete and bool(self._loaded or self.config.include or self.config.exclude)

    def connections(self) -> HyperConnections:
        """The new parameters.

        Raises:
            NoParametersYetError: there are none yet.
        """
        child = self._child()
        self._warn_of_loaded()
        return child

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take values for the new parameters, now or when they are created.

        Raises:
            OtherParametersError: a value has another shape than the parameter or belongs to no site, or there are none.
        """
        plain = {name.removeprefix(COMPILED): value for name, value in state.items()}
        found = {name: value for name, value in plain.items() if name.startswith(f"{CHILD}.")}
        if not found:
            raise OtherParametersError(
                f"the state dict holds no {CHILD}.*, only {', '.join(list(plain)[:3]) or 'nothing'}: pass that of a "
                "model with hyper-connections; the model itself loads its own parameters"
            )
        found.pop(KEY, None)
        model = self._model()
        child = None if model is None else connections_of(model)
        if child is not None and self._complete:
            _check_taken(found, set(child.state_dict()))
        self._loaded.update(found)
        if child is not None:
            fill(child, self._loaded)

    def _child(self) -> HyperConnections:
        model = self._model()
        child = None if model is None else connections_of(model)
        if child is None:
            raise NoParametersYetError(
                "the new parameters do not exist before the first call: "
                "write backend.attach(model, example_inputs) first, which also tells where Dynamo makes no graph"
            )
        return child

    def _warn_of_loaded(self) -> None:
        if self._loaded:
            warnings.warn(
                f"{_untaken(self._loaded)} so far. They are kept for graphs that are still to be compiled",
                UnusedParametersWarning,
                stacklevel=4,
            )


def _check_taken(loaded: Collection[str], names: Collection[str]) -> None:
    """Refuse values for parameters that the model does not have; `names` are those under `hyper_connections`."""
    unknown = [name for name in loaded if name.removeprefix(f"{CHILD}.") not in names]
    if unknown:
        raise OtherParametersError(
            f"{_untaken(unknown)}: load a checkpoint of this model, made with the same include, exclude and nested, "
            "or leave these entries out"
        )


def _untaken(names: Collection[str]) -> str:
    shown = names_text(list(names))
    return f"the state dict that was loaded has {count_text(len(names), 'value')} that no site takes ({shown})"
