"""The pass as a backend of `torch.compile`."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

from mhc_compile.config import Config
from mhc_compile.dynamo_graph import OpenGraph, close_graph, describe_added
from mhc_compile.dynamo_model import find_model, origin_of
from mhc_compile.early_optimizer import warn_of_early_optimizers
from mhc_compile.errors import MhcError, NoParametersYetError, OtherParametersError, SecondModelError
from mhc_compile.graphs import Claims, GraphRecord, check_cut, check_found, examine
from mhc_compile.inner import Inner, inner_backend
from mhc_compile.owner import CHILD, HyperConnections, Transformed
from mhc_compile.survey import survey
from mhc_compile.transform import make_config, warn_of_nothing
from mhc_compile.variants import initial_sites, specs_of

if TYPE_CHECKING:
    from mhc_compile.passes.plan import Plan

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
    return Backend(make_config(n, options), inner_backend(inner, mode, inner_options))


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
        return backend(mode=mode, **dict(options or {}))(gm, example_inputs)
    except MhcError as error:
        return _raising(error)


class Backend:
    """Rewrites each graph Dynamo hands over, over the same parameters, and hands it on to the inner backend.

    The parameters belong to the model, under `hyper_connections` as in a transformed one. `attach` creates them before
    there is an optimizer; without it they appear with the first call.

    Attributes:
        config: options of the rewrite.
        records: what was found in each graph that was compiled, in order.
    """

    def __init__(self, config: Config, inner: Inner) -> None:
        """Use `backend(...)`, which validates options by name."""
        self.config = config
        self.records: list[GraphRecord] = []
        self._inner = inner
        self._model: Callable[[], nn.Module | None] = lambda: None
        self._claims: Claims = {}
        self._loaded: dict[str, torch.Tensor] = {}

    def __call__(self, gm: fx.GraphModule, example_inputs: Sequence[Any]) -> Compiled:
        """Compile one graph of Dynamo's. A user's error is raised by the first call of the result, as itself."""
        try:
            return self._compile(gm, example_inputs)
        except MhcError as error:
            return _raising(error)

    def attach(
        self, model: nn.Module, example_inputs: Any = None, example_kwargs: Mapping[str, Any] | None = None
    ) -> tuple[GraphRecord, ...]:
        """Create the new parameters of a model now, so that an optimizer can be built before the first call.

        Args:
            model: the model that is, or will be, compiled with this backend. It gets the child `hyper_connections`.
            example_inputs: positional inputs, as for `transform`; the model is run on them in both modes, uncompiled,
                and its buffers and the random generators are put back. None: what the model declares.
            example_kwargs: keyword inputs.

        Returns:
            What was found in each graph.

        Raises:
            MhcError: as for `transform`; `SecondModelError` if the backend has another model.
        """
        model = getattr(model, "_orig_mod", model)
        self._take(model)
        records = survey(model, example_inputs, example_kwargs, self.config, self._claims)
        check_found(records, self.config)
        for record in records:
            self._create(model, record.plan)
        return records

    def parameters(self) -> Iterator[nn.Parameter]:
        """The new parameters.

        Raises:
            NoParametersYetError: neither `attach` nor a call has happened.
        """
        return self._child().parameters()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The new parameters by the names they have in the state dict of a transformed model.

        Raises:
            NoParametersYetError: neither `attach` nor a call has happened.
        """
        return {f"{CHILD}.{name}": value for name, value in self._child().state_dict().items()}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take the new parameters from a state dict; what else it holds is left to the model's own.

        Parameters that do not exist yet get their values when they are created.

        Raises:
            OtherParametersError: a value has another shape than the parameter.
        """
        self._loaded.update({name: value for name, value in state.items() if name.startswith(f"{CHILD}.")})
        model = self._model()
        if model is not None and CHILD in model._modules:
            self._fill(model.get_submodule(CHILD))

    def _compile(self, gm: fx.GraphModule, example_inputs: Sequence[Any]) -> Compiled:
        origin = origin_of(gm)
        check_cut(origin, self.config)
        model = self._adopt(gm)
        if model is None or isinstance(model, Transformed):  # nothing to widen, or done already
            return self._inner(gm, example_inputs)
        opened, record = examine(gm, origin, model, self.config, self._claims)
        self.records.append(record)
        if not record.plan.sites:
            if not any(r.plan.sites for r in self.records) and CHILD not in model._modules and record.whole:
                warn_of_nothing(record.plan, self.config)
            return self._inner(gm, example_inputs)
        self._create(model, record.plan)
        return self._rewrite(model, opened, record.plan, example_inputs)

    def _rewrite(
        self, model: nn.Module, opened: OpenGraph, plan: Plan, example_inputs: Sequence[Any]
    ) -> Compiled:
        from mhc_compile.passes.pipeline import rewrite_graph

        rewrite_graph(opened.gm, plan, self.config)
        closed, names = close_graph(opened)
        slots = [_slot(model.get_submodule(CHILD), name) for name in names]
        fakes = describe_added(closed, [holder[name] for holder, name in slots])
        return _with_parameters(self._inner(closed, [*example_inputs, *fakes]), slots)

    def _adopt(self, gm: fx.GraphModule) -> nn.Module | None:
        """The model of this backend, which is that of its first graph unless `attach` was told."""
        known, found = self._model(), find_model(gm)
        if known is not None and (found is None or found is known or known in set(found.modules())):
            return known  # compiled as such, or as a part of a wrapper
        if known is not None and found in set(known.modules()):
            return known
        if found is not None:
            self._take(found)
        return found

    def _take(self, model: nn.Module) -> None:
        known = self._model()
        if known is not None and known is not model:
            raise SecondModelError(
                f"this backend already serves a {type(known).__name__} and was given a {type(model).__name__}: "
                "write one mhc_compile.backend(...) for each model"
            )
        self._model = weakref.ref(model)
        child = model._modules.get(CHILD)
        if isinstance(child, HyperConnections):
            self._claims = child.graphs

    def _create(self, model: nn.Module, plan: Plan) -> None:
        """Give the model the parameters it lacks; those it has must fit."""
        child = model._modules.get(CHILD)
        if child is None:
            child = HyperConnections({}, self._claims).train(model.training)
            model.add_module(CHILD, child)
        assert isinstance(child, HyperConnections)
        _check_shapes(child, plan, self.config)
        lacking = [key for key in specs_of(plan, self.config) if key not in child]
        if not lacking:
            return
        with torch.inference_mode(False), torch.enable_grad():
            sites = initial_sites([plan], self.config, model)
            child.add({key: sites[key] for key in lacking})
        self._fill(child)
        warn_of_early_optimizers(model, [p for key in lacking for p in child[key].parameters()])

    def _fill(self, child: nn.Module) -> None:
        """Give parameters the values that were loaded for them."""
        for name, parameter in child.named_parameters():
            value = self._loaded.pop(f"{CHILD}.{name}", None)
            if value is not None:
                if value.shape != parameter.shape:
                    raise OtherParametersError(_mismatch(name, tuple(value.shape), tuple(parameter.shape)))
                with torch.no_grad():
                    parameter.copy_(value)

    def _child(self) -> nn.Module:
        model = self._model()
        if model is None or CHILD not in model._modules:
            raise NoParametersYetError(
                "the new parameters do not exist before the first call: "
                "write backend.attach(model, example_inputs) first"
            )
        return model.get_submodule(CHILD)


def _check_shapes(child: HyperConnections, plan: Plan, config: Config) -> None:
    for key, spec in specs_of(plan, config).items():
        if key in child:
            for name, parameter in child[key].named_parameters():
                wanted = tuple(spec.shapes.get(name, ()))
                if tuple(parameter.shape) != wanted:
                    raise OtherParametersError(_mismatch(f"{key}.{name}", tuple(parameter.shape), wanted))


def _mismatch(name: str, shape: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    return (
        f"{CHILD}.{name} has shape {list(shape)}, and {list(wanted)} is needed: use the options (n, connection, reduce) "
        f"it was made with, or write del model.{CHILD} to start anew"
    )


def _slot(child: nn.Module, name: str) -> tuple[dict[str, Any], str]:
    """Where a parameter is found at each call, so that replacing it works as in any module."""
    path, _, attribute = name.rpartition(".")
    return child.get_submodule(path)._parameters, attribute


def _with_parameters(compiled: Compiled, slots: Sequence[tuple[dict[str, Any], str]]) -> Compiled:
    def call(*inputs: Any) -> Any:
        return compiled(*inputs, *[holder[name] for holder, name in slots])

    return call


def _raising(error: MhcError) -> Compiled:
    """Dynamo would wrap an error of its backend; raised from the compiled code it stays what it is."""

    def call(*inputs: Any) -> Any:
        raise error

    return call
