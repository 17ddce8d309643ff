"""Calls of a transformed model that are no one graph: Dynamo runs them, with the backend of this project.

Sites have the same keys and the same parameters as in programs. Dynamo guards what the code reads, replays what it
writes, and breaks graphs where it must.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from mhc_compile import _torch_compat as compat
from mhc_compile.capture.undisturbed import draws_seen, residuals_shown
from mhc_compile.dynamo.alone import RECOMPILE_LIMIT, compiled_alone
from mhc_compile.dynamo.attached import Held
from mhc_compile.dynamo.backend import Backend, compile_alone
from mhc_compile.dynamo.frame import Origin
from mhc_compile.dynamo.inner import Inner, InnerChoice
from mhc_compile.dynamo.plans import GraphRecord, no_graph
from mhc_compile.errors import FallbackWarning, RecompilationWarning, UncompiledCodeWarning
from mhc_compile.passes.plan.data import Plan
from mhc_compile.programs.coverage import check_parameters, check_sites
from mhc_compile.programs.dispatch import FORWARD
from mhc_compile.programs.ownership import Served
from mhc_compile.twin.hosts import original_forward, plain_calls
from mhc_compile.twin.looks import with_traced_hooks
from mhc_compile.twin.module_tree import original_class
from mhc_compile.wording import names_text

OFTEN = 8
"""How many calls in a row that are each compiled anew are worth a warning."""

_LISTS = "empty lists between calls, or keep one tensor or number in place of a list"
_READ = "TORCH_LOGS=recompiles shows what that is; give it as a tensor, or keep it the same between calls"

_SETTINGS = {
    "skip_nnmodule_hook_guards": False,  # hooks come and go
    "suppress_errors": False,  # what is refused would run plain
    "allow_unspec_int_on_nn_module": True,  # counters are open from their second value on
}


class Fallback:
    """Runs the original code of one module of a transformed model under Dynamo."""

    def __init__(self, owner: Served, path: str, inner: str | Inner = "eager", method: str = FORWARD) -> None:
        """For a method of the module `path` of `owner`, "" for the model itself; `inner` runs the rewritten graphs."""
        self._inner, self._method = InnerChoice(inner), method
        self._path, self._reported, self._in_a_row = path, False, 0
        self._owner = weakref.ref(owner)
        self._held = _HeldTransformed(owner)
        self._start(owner)

    def _start(self, owner: Served) -> None:
        """Compile from now on, with nothing that was compiled before."""
        module = owner.get_submodule(self._path)
        backend = Backend(owner._mhc.config, self._inner)
        backend._held = self._held
        self._forward = getattr(original_class(module), self._method)
        code = original_forward(module) if self._method == FORWARD else self._forward
        if self._path and self._method == FORWARD:
            code = with_traced_hooks(code)
        self._compiled, self._compilations = compiled_alone(module, code, backend), 0

    def __call__(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The call `module(*args, **kwargs)`."""
        owner = self._owner()
        assert owner is not None
        forward = getattr(original_class(owner.get_submodule(self._path)), self._method)
        # Behind its limit, Dynamo would run calls without any hyper-connections.
        if self._compilations == RECOMPILE_LIMIT - 1 or forward is not self._forward:
            self._start(owner)
        known = len(self._held.records)
        lengths = list_lengths(owner) if self._in_a_row == OFTEN else {}
        with plain_calls(), residuals_shown(), draws_seen(), compat.dynamo_config.patch(**_SETTINGS), _compiling():
            result = self._compiled(*args, **kwargs)
        new = self._held.records[known:]
        if new or not self._reported:
            self._reported = True
            self._held.report(new, self._path)
        self._count(bool(new), owner, lengths)
        return result

    def _count(self, compiled: bool, owner: Served, lengths: Mapping[str, int]) -> None:
        """Warn of a call that is compiled anew each time, once."""
        self._compilations += compiled
        if self._in_a_row > OFTEN:
            return
        self._in_a_row = self._in_a_row + 1 if compiled else 0
        if self._in_a_row > OFTEN:
            now = list_lengths(owner)
            grown = [name for name, length in lengths.items() if now.get(name, length) != length]
            why, what = (f"{names_text(grown)} grow", _LISTS) if grown else ("something it reads is another", _READ)
            warnings.warn(
                f"{self._path or 'the model'} is compiled anew at each call, because {why} each time. That takes "
                f"longer than the call itself: {what}",
                RecompilationWarning,
                stacklevel=5,
            )


def _compiling() -> AbstractContextManager[object]:
    """A stance such as `force_eager` would run the code plain, without hyper-connections."""
    stance: AbstractContextManager[object] = torch.compiler.set_stance("default")
    return stance


def list_lengths(model: nn.Module) -> dict[str, int]:
    """Names of the lists that modules have as attributes -> their lengths."""
    modules = model.named_modules()
    found = ((f"{path}.{name}".lstrip("."), value) for path, m in modules for name, value in vars(m).items())
    return {name: len(value) for name, value in found if isinstance(value, list)}


class _HeldTransformed(Held):
    """The model of a fallback: made by `transform`, so that all of its parameters are there."""

    def __init__(self, owner: Served) -> None:
        super().__init__(owner._mhc.config, compile_alone, several=False)
        self._owner = weakref.ref(owner)
        self.claims = owner.hyper_connections.itself.graphs
        self._complete = True
        self._told: set[str] = set()

    def model_for(self, found: nn.Module | None) -> nn.Module | None:
        return self._owner()

    def is_done(self, model: nn.Module) -> bool:
        return False

    def create(self, model: nn.Module, plan: Plan) -> None:
        assert isinstance(model, Served)
        check_parameters(model, plan)

    def compiled(self, origin: Origin) -> list[Plan]:
        """With those of the programs, which serve other calls."""
        owner = self._owner()
        return [*super().compiled(origin), *([] if owner is None else owner._mhc.plans)]

    def report(self, new: Sequence[GraphRecord], path: str) -> None:
        """Warn of what the graphs of a call mean for the streams: breaks, sites that are in none, segments cut.

        Args:
            new: what Dynamo has compiled for it.
            path: the module that was called.

        Raises:
            GraphBreakError: Dynamo made no graph at all, under `strict=True`.
        """
        if not self.records:  # nothing was rewritten, and no weights were seen that would tell which sites are missing
            error = no_graph(self.config)
            if self.config.strict:
                raise error
            warnings.warn(f"{error}. This kind of call runs without hyper-connections", UncompiledCodeWarning, 7)
            return
        breaks = [r for r in new if r.origin.break_reason and r.origin.break_location not in self._told]
        if breaks:
            self._told |= {record.origin.break_location for record in breaks}
            warnings.warn(_told_of(breaks), FallbackWarning, stacklevel=7)
        owner = self._owner()
        if owner is not None:
            read = {name for record in new for name in record.read}
            check_sites(owner, path, {site.key for record in new for site in record.plan.sites}, read)


def _told_of(records: list[GraphRecord]) -> str:
    reason = records[0].origin.break_reason.partition("\n")[0]
    places = names_text(list(dict.fromkeys(r.origin.break_location for r in records)))
    return (
        f"the call is no one graph, it breaks at {places} ({reason}): streams are reduced in front of a break and "
        "expanded behind it. mhc_compile.explain(model, ...) shows the graphs; strict=True makes it an error"
    )
