"""The model of a backend, and the new parameters it holds."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping

import torch
from torch import nn

from mhc_compile.config import Config
from mhc_compile.errors import NoParametersYetError, OtherParametersError, SecondModelError
from mhc_compile.hyper_connections import HyperConnections
from mhc_compile.owner import CHILD
from mhc_compile.passes.plan import Plan
from mhc_compile.store import Claims, connections_of, create, fill

COMPILED = "_orig_mod."
"""What the result of `torch.compile` puts before the names of its model."""


class Held:
    """One model, known from `attach` or from the first graph. The parameters belong to it, not to the backend.

    Attributes:
        claims: see `mhc_compile.graphs.examine`.
    """

    def __init__(self, config: Config, *, several: bool) -> None:
        """Hold none yet.

        Args:
            config: options of the rewrite.
            several: whether another model may take the place of the first.
        """
        self.claims: Claims = {}
        self._config, self._several = config, several
        self._model: Callable[[], nn.Module | None] = lambda: None
        self._loaded: dict[str, torch.Tensor] = {}

    def take(self, model: nn.Module) -> None:
        """Hold this model.

        Raises:
            SecondModelError: there is another one.
        """
        known = self._model()
        if known is not None and known is not model and not self._several:
            raise second_model(known, type(model).__name__)
        self._model = weakref.ref(model)
        child = connections_of(model)
        self.claims = {} if child is None else child.graphs

    def model_for(self, found: nn.Module | None) -> nn.Module | None:
        """The model that a call of `found` is about: it may be compiled in parts, or inside a wrapper.

        Raises:
            SecondModelError: `found` has nothing to do with the model held.
        """
        known = self._model()
        if known is not None and (found is None or found in set(known.modules()) or known in set(found.modules())):
            return known
        if found is not None:
            self.take(found)
        return found

    def create(self, model: nn.Module, plan: Plan) -> None:
        """Give the model the parameters it lacks for a plan, with the values that were loaded for them.

        Raises:
            MhcError: as for `mhc_compile.store.create`.
        """
        if create(model, plan, self._config, self.claims):
            fill(self.connections(), self._loaded)

    def connections(self) -> HyperConnections:
        """The new parameters.

        Raises:
            NoParametersYetError: there are none yet.
        """
        model = self._model()
        child = None if model is None else connections_of(model)
        if child is None:
            raise NoParametersYetError(
                "the new parameters do not exist before the first call: "
                "write backend.attach(model, example_inputs) first"
            )
        return child

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take values for the new parameters, now or when they are created.

        Raises:
            OtherParametersError: a value has another shape than the parameter, or there are none.
        """
        plain = {name.removeprefix(COMPILED): value for name, value in state.items()}
        found = {name: value for name, value in plain.items() if name.startswith(f"{CHILD}.")}
        if not found:
            raise OtherParametersError(
                f"the state dict holds no {CHILD}.*, only {', '.join(list(plain)[:3]) or 'nothing'}: pass that of a "
                "model with hyper-connections; the model itself loads its own parameters"
            )
        self._loaded.update(found)
        model = self._model()
        child = None if model is None else connections_of(model)
        if child is not None:
            fill(child, self._loaded)


def second_model(known: nn.Module, other: str) -> SecondModelError:
    """The error that says what to write."""
    return SecondModelError(
        f"this backend already serves a {type(known).__name__} and was given a {other}: "
        "write one mhc_compile.backend(...) for each model"
    )
