"""The pass as a backend of `torch.compile`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import fx, nn

from mhc_compile import _torch_compat as compat
from mhc_compile.capture.inference import make_ordinary
from mhc_compile.config import MODES, Config, check_modes, make_config
from mhc_compile.dynamo.alone import compiled_alone
from mhc_compile.dynamo.attached import Held
from mhc_compile.dynamo.compiled_graph import compile_graph
from mhc_compile.dynamo.explain import Explanation, explain_call
from mhc_compile.dynamo.frame import traced_code
from mhc_compile.dynamo.inner import Compiled, Inner, InnerChoice
from mhc_compile.dynamo.plans import GraphRecord, check_found
from mhc_compile.dynamo.survey import survey
from mhc_compile.errors import MhcError
from mhc_compile.programs.ownership import Served
from mhc_compile.programs.untransformed import check_module
from mhc_compile.twin.header import Header, check_state
from mhc_compile.twin.hyper_connections import CHILD
from mhc_compile.twin.module_tree import original_class
from mhc_compile.twin.reserved import check_free


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
    return Backend(made.config, made.inner, several_models=True)(gm, example_inputs)


class Backend:
    """Rewrites each graph Dynamo hands over, over the same parameters, and hands it on to the inner backend.

    The parameters belong to the model, under `hyper_connections` as in a transformed one. `attach` creates them before
    there is an optimizer; without it they appear with the first call.

    Attributes:
        config: options of the rewrite.
        inner: what compiles the rewritten graphs.
    """

    def __init__(self, config: Config, inner: InnerChoice, *, several_models: bool = False) -> None:
        """Use `backend(...)`, which validates options by name."""
        self.config = config
        self.inner = inner
        self._held = Held(config, compile_alone, several=several_models)

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy, or what a pickle gives back, has the options; its model is the next that it is used for."""
        return (Backend, (self.config, self.inner))

    @property
    def records(self) -> list[GraphRecord]:
        """What was found in each graph that was compiled, in order."""
        return self._held.records

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
            return compile_graph(gm, example_inputs, self.inner.with_(mode, options).resolve(), self._held)
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
                and the random generators are put back; other state that its own code changes, such as a list that it
                appends to, is not. None: what the model declares.
            example_kwargs: keyword inputs.
            modes: run it in `"train"`, `"eval"` or both.

        Returns:
            What was found in each graph; nothing for a model that `transform` made.

        Raises:
            MhcError: as for `transform`; `SecondModelError` if the backend has another model, `OtherParametersError` if
                values were loaded for sites that it does not have.
        """
        model = check_module(getattr(model, "_orig_mod", model))
        check_free(model)
        owner = self._held.model_for(model)
        if owner is None or isinstance(owner, Served):
            return ()  # it has them already
        make_ordinary(model)
        find = partial(survey, model, example_inputs, example_kwargs, self.config, self._held.claims, owner=owner)
        records = find(check_modes(modes))
        if "eval" in modes and torch.is_grad_enabled() and not all(record.origin.whole for record in records):
            with torch.no_grad(), suppress(RuntimeError):  # some autograd functions break graphs with gradients only,
                records += find(("eval",))  # and some models differentiate inside their forward
        check_found(records, self.config)
        self._held.surveyed += records
        self._held.create_all(owner, [record.plan for record in records])
        return records

    def explain(self, model: nn.Module, *args: Any, **kwargs: Any) -> Explanation:
        """What this backend would find in `model(*args, **kwargs)`; see `mhc_compile.explain`."""
        return explain_call(model, args, kwargs, self.config)

    def parameters(self) -> Iterator[nn.Parameter]:
        """The new parameters.

        Raises:
            NoParametersYetError: neither `attach` nor a call has happened.
        """
        return self._held.connections().parameters()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The new parameters by the names they have in the state dict of a transformed model.

        Raises:
            NoParametersYetError: neither `attach` nor a call has happened.
        """
        return {f"{CHILD}.{name}": value for name, value in self._held.connections().state_dict().items()}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take the new parameters from a state dict; what else it holds is left to the model's own.

        Parameters that do not exist yet get their values when they are created.

        Raises:
            OtherParametersError: a value has another shape than the parameter, or there are none.
            CheckpointMismatchError: they are of another connection, n or reduce.
        """
        check_state(state, Header.of(self.config))
        self._held.load(state)


def compile_alone(module: nn.Module, model: nn.Module, config: Config) -> tuple[Callable[..., Any], list[GraphRecord]]:
    """`module` compiled by itself, over the new parameters of `model`, and the records of its graphs, as they come."""
    backend = Backend(config, InnerChoice("eager"))
    backend._held.take(model)
    return compiled_alone(module, original_class(module).forward, backend), backend.records


def _raising(error: MhcError) -> Compiled:
    """Dynamo would wrap an error of its backend; raised from the compiled code it stays what it is.

    Dynamo forgets that code then: the next call is compiled anew, and works if what was wrong has been put right.
    """
    code = traced_code()

    def call(*inputs: Any) -> Any:
        if code is not None:
            compat.remove_from_cache(code)
        raise error

    return call
