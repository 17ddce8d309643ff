"""The pass as a backend of `torch.compile`."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn

from mhc_compile.config import Config
from mhc_compile.dynamo_graph import close_graph, describe_added
from mhc_compile.dynamo_model import Origin, compiled_module, find_model, origin_of
from mhc_compile.errors import MhcError, NoParametersYetError, SecondModelError
from mhc_compile.explain import Explanation, explain_call
from mhc_compile.graphs import GraphRecord, check_cut, check_found, examine, warn_of_limit
from mhc_compile.header import Header, check_state
from mhc_compile.inner import Inner, InnerChoice
from mhc_compile.instances import Instances
from mhc_compile.owner import CHILD, HyperConnections, Transformed, check_module
from mhc_compile.store import Claims, Slots, connections_of, create, fill, slots_of
from mhc_compile.survey import survey
from mhc_compile.transform import MODES, check_modes, make_config, warn_of_nothing

Compiled = Callable[..., Any]


def backend(
    n: int = 4,
    *,
    inner: str | Inner = "inductor",
    mode: str | None = None,
    inner_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Backend:
    """A backend for `torch.compile(model, backend=...)` that rewrites residual connections, for one model.

    Args:
        n: number of streams, 1 to 8.
        inner: what compiles the rewritten graphs, a registered name or a backend function.
        mode: mode of the inner backend, such as `reduce-overhead`.
        inner_options: options of the inner backend.
        **options: fields of `Config`. `strict=True` also refuses graph breaks.

    Raises:
        InvalidOptionError: an option is unknown or out of its domain.
    """
    return Backend(make_config(n, options), InnerChoice(inner, mode, inner_options))


def dynamo_backend(
    gm: fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    mode: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Compiled:
    """What `torch.compile(model, backend="mhc", options={"n": 4})` calls for each graph; `options` as for `backend`.

    Nothing is kept between the calls: the parameters are those of the model.
    """
    try:
        made = backend(**{"mode": mode, **dict(options or {})})
    except MhcError as error:
        return _raising(error)
    made.shared = True
    return made(gm, example_inputs)


@dataclass(frozen=True)
class _Rewritten:
    """One graph for the inner backend, and where the parameters are that it takes behind Dynamo's inputs.

    `positions` are the inputs that hold the weights of its sites.
    """

    gm: fx.GraphModule
    slots: Slots
    positions: tuple[int, ...]


class Backend:
    """Rewrites each graph Dynamo hands over, over the same parameters, and hands it on to the inner backend.

    The parameters belong to the model, under `hyper_connections` as in a transformed one. `attach` creates them before
    there is an optimizer; without it they appear with the first call.

    Attributes:
        config: options of the rewrite.
        records: what was found in each graph that was compiled, in order.
        shared: whether it may serve several models, as the backend called by name does.
    """

    def __init__(self, config: Config, inner: InnerChoice) -> None:
        """Use `backend(...)`, which validates options by name."""
        self.config = config
        self.records: list[GraphRecord] = []
        self.shared = False
        self._inner = inner
        self._model: Callable[[], nn.Module | None] = lambda: None
        self._claims: Claims = {}
        self._loaded: dict[str, torch.Tensor] = {}

    def __call__(
        self,
        gm: fx.GraphModule,
        example_inputs: Sequence[Any],
        *,
        mode: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Compiled:
        """Compile one graph of Dynamo's. A user's error is raised by the first call of the result, as itself.

        Args:
            gm: left as it is.
            example_inputs: its inputs.
            mode: given to the inner backend, as are `options`: what `torch.compile` was called with.
            options: see `mode`.
        """
        try:
            return self._compile(gm, example_inputs, self._inner.with_(mode, options).resolve())
        except MhcError as error:
            return _raising(error)

    def attach(
        self,
        model: nn.Module,
        example_inputs: Any = None,
        example_kwargs: Mapping[str, Any] | None = None,
        *,
        modes: Sequence[str] = MODES,
    ) -> tuple[GraphRecord, ...]:
        """Create the new parameters of a model now, so that an optimizer can be built before the first call.

        Args:
            model: the model that is, or will be, compiled with this backend. It gets the child `hyper_connections`.
            example_inputs: positional inputs, as for `transform`; the model is run on them, uncompiled, and its buffers
                and the random generators are put back. None: what the model declares.
            example_kwargs: keyword inputs.
            modes: run it in `"train"`, `"eval"` or both.

        Returns:
            What was found in each graph; nothing for a model that `transform` made.

        Raises:
            MhcError: as for `transform`; `SecondModelError` if the backend has another model.
        """
        model = check_module(getattr(model, "_orig_mod", model))
        self._take(model)
        if isinstance(model, Transformed):
            return ()  # it has them already
        records = survey(model, example_inputs, example_kwargs, self.config, self._claims, check_modes(modes))
        check_found(records, self.config)
        for record in records:
            self._create(model, record)
        return records

    def explain(self, model: nn.Module, *args: Any, **kwargs: Any) -> Explanation:
        """What this backend would find in `model(*args, **kwargs)`; see `mhc_compile.explain`."""
        return explain_call(model, args, kwargs, self.config)

    def parameters(self) -> Iterator[nn.Parameter]:
        """The new parameters.

        Raises:
            NoParametersYetError: neither `attach` nor a call has happened.
        """
        return self._connections().parameters()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The new parameters by the names they have in the state dict of a transformed model.

        Raises:
            NoParametersYetError: neither `attach` nor a call has happened.
        """
        return {f"{CHILD}.{name}": value for name, value in self._connections().state_dict().items()}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take the new parameters from a state dict; what else it holds is left to the model's own.

        Parameters that do not exist yet get their values when they are created.

        Raises:
            OtherParametersError: a value has another shape than the parameter.
            CheckpointMismatchError: they are of another connection, n or reduce.
        """
        check_state(state, Header.of(self.config))
        self._loaded.update({name: value for name, value in state.items() if name.startswith(f"{CHILD}.")})
        model = self._model()
        child = None if model is None else connections_of(model)
        if child is not None:
            fill(child, self._loaded)

    def _compile(self, gm: fx.GraphModule, example_inputs: Sequence[Any], inner: Inner) -> Compiled:
        model = self._model_for(find_model(gm))
        if model is None or isinstance(model, Transformed):  # nothing to widen, or done already
            return inner(gm, example_inputs)
        origin = origin_of(gm)
        check_cut(origin, self.config)
        warn_of_limit(gm)
        first = self._rewrite(gm, example_inputs, origin, model)
        if first is None:
            return inner(gm, example_inputs)

        def learn(inputs: Sequence[Any]) -> Slots:
            other = self._rewrite(gm, inputs, origin, self._model_for(compiled_module()) or model)
            assert other is not None, "the same graph has the same sites"
            return other.slots

        instances = Instances(first.positions, learn)
        instances.add(example_inputs, first.slots)
        added = describe_added(first.gm, instances.values(example_inputs))
        return _with_parameters(inner(first.gm, [*example_inputs, *added]), instances)

    def _rewrite(
        self, gm: fx.GraphModule, inputs: Sequence[Any], origin: Origin, model: nn.Module
    ) -> _Rewritten | None:
        """The graph over the parameters of the modules whose weights are among `inputs`; None without a site."""
        opened, record = examine(gm, inputs, origin, model, self.config, self._claims)
        self.records.append(record)
        if not record.plan.sites:
            if origin.whole and connections_of(model) is None and not any(r.plan.sites for r in self.records):
                warn_of_nothing(record.plan, self.config)
            return None
        from mhc_compile.passes.pipeline import rewrite_graph

        self._check_owner(model, opened.foreign, record)
        self._create(model, record)
        rewrite_graph(opened.gm, record.plan, self.config)
        positions = opened.positions(weight for site in record.plan.sites for weight in site.weights[:1])
        closed, names = close_graph(opened)
        return _Rewritten(closed, slots_of(model, names), positions)

    def _create(self, model: nn.Module, record: GraphRecord) -> None:
        if create(model, record.plan, self.config, self._claims):
            fill(self._connections(), self._loaded)

    def _model_for(self, found: nn.Module | None) -> nn.Module | None:
        """The model of this backend: that of its first graph, unless `attach` was told. It may be compiled in parts."""
        known = self._model()
        if known is not None and (found is None or found in set(known.modules()) or known in set(found.modules())):
            return known
        if found is not None:
            self._take(found)
        return found

    def _take(self, model: nn.Module) -> None:
        known = self._model()
        if known is not None and known is not model and not self.shared:
            raise SecondModelError(_second(known, type(model).__name__))
        self._model = weakref.ref(model)
        child = connections_of(model)
        self._claims = {} if child is None else child.graphs

    def _check_owner(self, model: nn.Module, foreign: Sequence[str], record: GraphRecord) -> None:
        weights = {weight for site in record.plan.sites for weight in site.weights}
        if weights and weights <= set(foreign):
            raise SecondModelError(_second(model, f"module with the weight {min(weights)}"))

    def _connections(self) -> HyperConnections:
        model = self._model()
        child = None if model is None else connections_of(model)
        if child is None:
            raise NoParametersYetError(
                "the new parameters do not exist before the first call: "
                "write backend.attach(model, example_inputs) first"
            )
        return child


def _second(known: nn.Module, other: str) -> str:
    return (
        f"this backend already serves a {type(known).__name__} and was given a {other}: "
        "write one mhc_compile.backend(...) for each model"
    )


def _with_parameters(compiled: Compiled, instances: Instances) -> Compiled:
    values = instances.values

    def call(*inputs: Any) -> Any:
        return compiled(*inputs, *values(inputs))

    return call


def _raising(error: MhcError) -> Compiled:
    """Dynamo would wrap an error of its backend; raised from the compiled code it stays what it is."""

    def call(*inputs: Any) -> Any:
        raise error

    return call
