"""One call of a model, looked at: `diagnose`, and `status` in one line per segment."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from mhc_compile.capture.undisturbed import state_kept
from mhc_compile.diagnostics.alarms import Bounds, find_alarms, segment_figures
from mhc_compile.diagnostics.at_rest import at_rest
from mhc_compile.diagnostics.collector import Collector, Seen
from mhc_compile.diagnostics.data import Diagnosis, SiteFigures
from mhc_compile.diagnostics.figures import site_figures
from mhc_compile.diagnostics.observe import Found, Plans, find_models, observing
from mhc_compile.diagnostics.starts import Starts
from mhc_compile.errors import NothingObservedError
from mhc_compile.passes.plan.data import Plan
from mhc_compile.twin.owned import Owner

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
    found = find_models(model)
    _check_values(found)
    watched = [Watched.of(each) for each in found]
    for _ in range(2):  # a kind of call that is new is traced at first, and observed then
        with ExitStack() as stack, state_kept(model), torch.no_grad():
            collectors = [stack.enter_context(each.observed(tokens, on_site)) for each in watched]
            model(*inputs, **keywords)
        if any(collector.seen for collector in collectors):
            break
    pairs = list(zip(watched, collectors, strict=True))
    return combined([each.sites(collector.seen) for each, collector in pairs], found, bounds or Bounds())


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
    watched = [Watched.of(each) for each in found]
    sites = [each.sites(at_rest(each.found.connections, each.plans(), each.found.config)) for each in watched]
    return "\n".join(replace(combined(sites, found, Bounds()), at_rest=True).status())


@dataclass
class Watched:
    """A model that is observed again and again.

    Attributes:
        found: the model.
        plans: of the code that ran last.
        starts: initial values; made at the first figures.
    """

    found: Found
    plans: Plans
    starts: Starts | None = None

    @classmethod
    def of(cls, found: Found) -> Watched:
        """A model before its first call."""
        plans: Sequence[Plan] = found.module._mhc.plans if isinstance(found.module, Owner) else ()
        return cls(found, lambda: plans)

    @contextmanager
    def observed(self, tokens: int, on_site: Callable[[str], None] = lambda key: None) -> Iterator[Collector]:
        """Observe calls in the block."""

        def collect(plans: Plans) -> Collector:
            self.plans = plans
            return Collector(self.found.connections, plans, tokens, on_site)

        with observing(self.found, collect) as collector:
            yield collector

    def sites(self, seen: dict[str, Seen]) -> list[SiteFigures]:
        """The figures of what was seen."""
        plans, child = self.plans(), self.found.connections
        if self.starts is None:
            self.starts = Starts.of(plans, self.found.config)
        # Every site: of sharded parameters all processes ask for the same ones, whatever their calls have run.
        parameters = {s.key: self.starts.figures(child, s.key) for plan in plans for s in plan.sites if s.key in child}
        return site_figures(seen, plans, parameters)


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
