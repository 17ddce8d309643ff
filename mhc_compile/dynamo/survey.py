"""Which graphs Dynamo makes of a model, found by running it once, without compiling anything."""

from __future__ import annotations

import copy
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn

from mhc_compile import _torch_compat as compat
from mhc_compile.capture.inputs import Inputs, missing_inputs, resolve_inputs
from mhc_compile.capture.trace_errors import translate
from mhc_compile.capture.undisturbed import state_kept
from mhc_compile.config import Config
from mhc_compile.dynamo.attributes_kept import attributes_kept
from mhc_compile.dynamo.frame import Origin, is_model_state, origin_of, traced_code
from mhc_compile.dynamo.instances import Instances, Served
from mhc_compile.dynamo.new_parameters import Claims
from mhc_compile.dynamo.plans import GraphRecord, check_cut, examine, no_graph
from mhc_compile.errors import CaptureError, MhcError, UncompiledCodeWarning
from mhc_compile.programs.untransformed import check_module
from mhc_compile.programs.variants import training_mode


def survey(
    model: nn.Module,
    example_inputs: Any,
    example_kwargs: Mapping[str, Any] | None,
    config: Config,
    claims: Claims,
    modes: Sequence[str],
    *,
    owner: nn.Module | None = None,
) -> tuple[GraphRecord, ...]:
    """What `backend` would find in each graph of `model(*example_inputs, **example_kwargs)`.

    Args:
        model: run on its own device; its buffers, attributes and training flags and the random generators are put
            back; what its own code changes elsewhere, such as a global, is not.
        example_inputs: as for `transform`.
        example_kwargs: as for `transform`.
        config: options of the rewrite.
        claims: see `examine`; extended.
        modes: `train`, `eval` or both; the model's own comes first.
        owner: the module that holds the new parameters, and whose names are used; the model itself by default.

    Raises:
        MhcError: as for `transform`, and for graph breaks under `strict=True`.
    """
    check_module(model)
    inputs = resolve_inputs(model, example_inputs, example_kwargs)
    if inputs is None:
        raise missing_inputs(model, "its graphs depend on them")
    recorder = _Recorder(owner or model, config, claims)
    empty: list[str] = []
    for mode in sorted(modes, key=lambda mode: (mode == "train") is not model.training):
        flag = None if (mode == "train") is model.training else mode == "train"
        with (
            _values_needed(),
            state_kept(model),
            attributes_kept(model),
            training_mode(model, flag),
            _tracing(),
            recorder.traced(),
        ):
            made = len(recorder.records)
            _run(model, recorder, copy.deepcopy(inputs))
        empty += [mode] if len(recorder.records) == made else []
    if empty and recorder.records:  # without any graph, the caller says so
        _report_missing(empty[0], config)
    return tuple(recorder.records)


def _report_missing(mode: str, config: Config) -> None:
    error = no_graph(config, mode)
    if config.strict:
        raise error
    warnings.warn(f"{error}. In this mode it runs without hyper-connections", UncompiledCodeWarning, stacklevel=3)


def _run(model: nn.Module, recorder: _Recorder, inputs: Inputs) -> None:
    before = set(vars(model))
    compiled = torch.compile(model, backend=recorder)
    marks = set(vars(model)) - before  # of PyTorch, and of Lightning where it wraps `torch.compile`
    try:
        compiled(*inputs.args, **inputs.kwargs)
    except (compat.TorchRuntimeError, compat.Unsupported) as error:  # the inputs do not fit
        raise translate(error, model, inputs.args, inputs.kwargs) from error
    finally:
        for mark in marks:
            delattr(model, mark)


class _Recorder:
    """A backend that plans each graph, for each module it is called for, and runs it as it is."""

    def __init__(self, model: nn.Module, config: Config, claims: Claims) -> None:
        self.records: list[GraphRecord] = []
        self._model, self._config, self._claims = weakref.ref(model), config, claims  # Dynamo keeps backends
        self._codes: list[Any] = []
        self._error: MhcError | None = None

    def __call__(self, gm: fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        self._codes.append(traced_code())
        origin = origin_of(gm)

        def learn(inputs: Sequence[Any]) -> Served:
            self._record(gm, inputs, origin)
            return Served(gm.forward)

        state = [i for i, node in enumerate(gm.graph.find_nodes(op="placeholder")) if is_model_state(node)]
        return Instances(state, learn).function()

    def _record(self, gm: fx.GraphModule, inputs: Sequence[Any], origin: Origin) -> None:
        model = self._model()
        assert model is not None, "it is being called"
        try:
            check_cut(origin, self._config)
            self.records.append(examine(gm, inputs, origin, model, self._config, self._claims)[1])
        except MhcError as error:  # raised where nothing of Dynamo's lies between
            self._error = self._error or error

    @contextmanager
    def traced(self) -> Iterator[None]:
        """What Dynamo has learnt meanwhile is forgotten, so that the real compilation starts afresh."""
        try:
            yield
        finally:
            for code in filter(None, self._codes):
                compat.remove_from_cache(code)
            self._codes.clear()
        if self._error is not None:
            raise self._error


@contextmanager
def _values_needed() -> Iterator[None]:
    """On the meta device a model runs until it asks for a value, which is where graphs break."""
    try:
        yield
    except RuntimeError as error:
        if "meta tensors" not in str(error):
            raise
        raise CaptureError(
            f"the model asks for the value of a tensor, and on the meta device there are none ({error}): build it with "
            "memory, on the command line --no-meta"
        ) from error


@contextmanager
def _tracing() -> Iterator[None]:
    """What was compiled before, for other backends, counts towards Dynamo's limit; and a stance may forbid to trace.

    What there is to find depends on neither.
    """
    limits = {"recompile_limit": sys.maxsize, "accumulated_recompile_limit": sys.maxsize}
    with compat.dynamo_config.patch(limits), torch.compiler.set_stance("default"):
        yield
