"""One call of a model, looked at: `diagnose`, and `status` in one line per segment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from mhc_compile.capture.undisturbed import state_kept
from mhc_compile.diagnostics.alarms import Bounds, find_alarms, segment_figures
from mhc_compile.diagnostics.at_rest import at_rest
from mhc_compile.diagnostics.collector import Seen
from mhc_compile.diagnostics.data import Diagnosis, SiteFigures
from mhc_compile.diagnostics.figures import site_figures
from mhc_compile.diagnostics.observe import Found, Observer, find_models
from mhc_compile.diagnostics.starts import Starts
from mhc_compile.errors import NothingObservedError

TOKENS = 4096
"""How many tokens of a site are looked at by default."""


def diagnose(
    model: nn.Module,
    *inputs: Any,
    bounds: Bounds | None = None,
    tokens: int = TOKENS,
    on_site: Callable[[str], None] = lambda key: None,
    **keywords: Any,
) -> Diagnosis:
    """What the hyper-connections of a model do with its streams in `model(*inputs, **keywords)`.

    The model runs once, without gradients, in the mode it is in, and uncompiled if it was compiled. Its buffers and the
    random generators are put back; other state that its own code changes is not. Of a model that is sharded over
    processes each calls this, with inputs of its own: figures of a call are those of its process, figures of parameters
    those of the whole.

    Args:
        model: made by `transform`, a stage of a pipeline, a model behind `backend`, what `torch.compile` or a wrapper
            has made of one of these, or a module that holds some.
        *inputs: of the call.
        bounds: when there is an alarm.
        tokens: look at so many tokens per site at most, evenly spaced; whether values are finite is asked of all.
        on_site: told the key of each site as it runs.
        **keywords: of the call.

    Raises:
        NotTransformedError: there are no hyper-connections in it.
        NothingObservedError: the call ran none of its sites, or the model is on the meta device.
    """
    watched = [Watched(found, tokens, on_site) for found in find_models(model)]
    return diagnose_watched(model, watched, inputs, keywords, bounds or Bounds())


def diagnose_watched(
    model: nn.Module, watched: Sequence[Watched], args: Sequence[Any], kwargs: Mapping[str, Any], bounds: Bounds
) -> Diagnosis:
    """`diagnose` for models that were found in `model` before.

    Raises:
        NothingObservedError: see `diagnose`.
    """
    found = [each.found for each in watched]
    _check_values(found)
    for _ in range(2):  # a kind of call that is new is traced at first, and observed then
        with ExitStack() as stack, state_kept(model), torch.no_grad():
            collectors = [stack.enter_context(each.observer.observing()) for each in watched]
            model(*args, **kwargs)
        if any(collector.seen for collector in collectors):
            break
    pairs = zip(watched, collectors, strict=True)
    return combined([each.sites(collector.seen) for each, collector in pairs], found, bounds)


def status(model: nn.Module, *inputs: Any, **keywords: Any) -> str:
    """One line per segment: sites, composite gain, how far streams differ, how many parameters have moved.

    Args:
        model: as for `diagnose`.
        *inputs: of a call to look at. Without any nothing is run, and gains are those at rest: of streams that are
            zero, for which biases alone decide.
        **keywords: of the call.

    Raises:
        NotTransformedError: as `diagnose`.
        NothingObservedError: as `diagnose`; or the model is behind `backend` and no inputs were given.
    """
    if inputs or keywords:
        return "\n".join(diagnose(model, *inputs, **keywords).status())
    found = find_models(model)
    _check_values(found)
    resting = combined([Watched(each).at_rest() for each in found], found, Bounds())
    return "\n".join(replace(resting, at_rest=True).status())


class Watched:
    """A model that is observed, and figures of what was seen."""

    def __init__(self, found: Found, tokens: int = TOKENS, on_site: Callable[[str], None] = lambda key: None) -> None:
        """A model before its first call; arguments as for `Observer`."""
        self.found, self.observer = found, Observer(found, tokens, on_site)
        self._starts: Starts | None = None

    def sites(self, seen: Mapping[str, Seen]) -> list[SiteFigures]:
        """The figures of what was seen."""
        plans, child = self.observer.plans(), self.found.connections
        if self._starts is None:
            self._starts = Starts.of(plans, self.found.config)
        # Every site: of sharded parameters all processes ask for the same ones, whatever their calls have run.
        keys = dict.fromkeys(site.key for plan in plans for site in plan.sites if site.key in child)
        return site_figures(seen, plans, {key: self._starts.figures(child, key) for key in keys})

    def at_rest(self) -> list[SiteFigures]:
        """The figures of streams that are zero."""
        return self.sites(at_rest(self.found.connections, self.observer.plans(), self.found.config))


def combined(parts: Sequence[Sequence[SiteFigures]], found: Sequence[Found], bounds: Bounds) -> Diagnosis:
    """The figures of all models that were found, as one.

    Raises:
        NothingObservedError: there are none.
    """
    sites: list[SiteFigures] = []
    for part, each in zip(parts, found, strict=True):
        first = 1 + max((s.segment for s in sites), default=-1)
        for s in part:
            before = each.prefix + s.before if s.before else ""
            sites.append(replace(s, key=each.prefix + s.key, before=before, segment=s.segment + first))
    if not sites:
        raise NothingObservedError(
            "none of the sites of this model ran: pass inputs that take the path through them, as in training"
        )
    config = found[0].config
    return Diagnosis(
        config.effective_connection,
        config.streams,
        tuple(sites),
        segment_figures(sites),
        find_alarms(sites, bounds),
    )


def _check_values(found: Sequence[Found]) -> None:
    if any(isinstance(p, Tensor) and p.is_meta for each in found for p in each.module.parameters()):
        raise NothingObservedError(
            "parameters of this model are on the meta device, where they have no values: write "
            "model.to_empty(device='cpu') and load a checkpoint, or build it with memory"
        )
