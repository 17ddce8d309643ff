"""The figures of `diagnose` during training, every so many steps, at a bounded cost.

    recorder = Recorder(model, every=100, to="run.jsonl")
    for batch in data:
        with recorder.step():
            loss = model(batch).mean()
            loss.backward()
            optimizer.step()

The forward of the training itself is observed; nothing is run for it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from mhc_compile.diagnostics.alarms import Bounds
from mhc_compile.diagnostics.collector import Collector
from mhc_compile.diagnostics.data import Alarm, Diagnosis
from mhc_compile.diagnostics.diagnose import Watched, combined, diagnose_watched
from mhc_compile.diagnostics.observe import find_models
from mhc_compile.diagnostics.writers import writer_of
from mhc_compile.errors import AlarmWarning, InvalidOptionError
from mhc_compile.twin.owned import Owner

TOKENS = 128
"""How many tokens of a site are looked at in training."""


@dataclass(frozen=True)
class Record:
    """The figures of one step.

    Attributes:
        step: how many steps were finished before it.
        diagnosis: the figures.
    """

    step: int
    diagnosis: Diagnosis


_SLOW = ("collapse", "dead")
"""Alarms that a start may have, too: they are told where two records in a row have them."""


class Recorder:
    """Looks at every `every`-th step of a training, and writes down what it sees.

    Steps that are looked at run uncompiled where the model was compiled: at 100 steps that costs less than one percent
    as long as an uncompiled step takes less than twice as long. A model behind `mhc_compile.backend` runs once more, on
    `inputs`, without gradients.

    Attributes:
        steps: how many steps were finished.
        last: the latest record, None before the first.
    """

    def __init__(
        self,
        model: nn.Module,
        every: int = 100,
        *,
        to: Any = (),
        bounds: Bounds | None = None,
        tokens: int = TOKENS,
        inputs: Sequence[Any] | None = None,
        on_alarm: Callable[[Alarm], None] | None = None,
        start: int = 0,
    ) -> None:
        """Look at nothing yet.

        Args:
            model: as for `diagnose`; the one that is trained, inside or outside of wrappers.
            every: steps from one record to the next.
            to: where records go, one or several: a path (JSON lines, appended), a writer of TensorBoard
                (`add_scalar`), a run of Weights and Biases (`log`), a function of a `Record`.
            bounds: when there is an alarm.
            tokens: look at so many tokens per site at most.
            inputs: look at a call with these instead of the one of the training.
            on_alarm: called with each alarm, the first time that a site has one of its kind; a warning by default.
            start: number of steps that were finished before, after a restart.

        Raises:
            NotTransformedError: there are no hyper-connections in the model.
            InvalidOptionError: `every` is no positive number, or nothing can be written to `to`.
        """
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise InvalidOptionError(f"every={every!r}: write a number of steps, as in Recorder(model, every=100)")
        self.steps = start
        self.last: Record | None = None
        self._model, self._every, self._inputs = model, every, inputs
        self._found = find_models(model)
        self._watched = [Watched(each, tokens) for each in self._found]
        self._bounds, self._on_alarm = bounds or Bounds(), on_alarm or _warn
        several = isinstance(to, (list, tuple))
        self._writers = [writer_of(each) for each in (to if several else [to])]
        self._told: set[tuple[str, str]] = set()
        self._stack: ExitStack | None = None
        self._collectors: list[Collector] = []

    @contextmanager
    def step(self) -> Iterator[None]:
        """One step of the training, forward to optimizer."""
        self.begin()
        try:
            yield
        except BaseException:
            self._stop()
            raise
        self.end()

    def begin(self) -> None:
        """Begin a step, for callers that cannot write `with recorder.step()`."""
        self._stop()
        if self.steps % self._every == 0 and not self._asks_for_a_call:
            self._stack = ExitStack()
            self._collectors = [self._stack.enter_context(each.observer.observing()) for each in self._watched]

    def end(self) -> None:
        """End the step that was begun."""
        due = self.steps % self._every == 0
        self._stop()
        step, self.steps = self.steps, self.steps + 1
        if due:
            diagnosis = self._diagnosis()
            if diagnosis is not None:
                self._write(Record(step, diagnosis))

    @property
    def _asks_for_a_call(self) -> bool:
        return self._inputs is not None or not all(isinstance(each.module, Owner) for each in self._found)

    def _stop(self) -> None:
        stack, self._stack = self._stack, None
        if stack is not None:
            stack.close()

    def _diagnosis(self) -> Diagnosis | None:
        if self._inputs is not None:
            return diagnose_watched(self._model, self._watched, self._inputs, {}, self._bounds)
        if self._asks_for_a_call:
            self._tell_once("a model behind mhc_compile.backend is compiled by Dynamo, which hides its streams: write "
                            "Recorder(model, inputs=(x,)) with a small batch to look at")  # fmt: skip
            return None
        pairs = list(zip(self._watched, self._collectors, strict=True))
        if not any(collector.seen for _, collector in pairs):
            self._tell_once("nothing was seen in a step: call the model between recorder.begin() and recorder.end(), "
                            "or inside of `with recorder.step()`")  # fmt: skip
            return None
        sites = [watched.sites(collector.seen) for watched, collector in pairs]
        self._collectors = []
        return combined(sites, self._found, self._bounds)

    def _write(self, record: Record) -> None:
        before, self.last = self.last, record
        for writer in self._writers:
            writer(record)
        seen = {(a.kind, a.site) for a in before.diagnosis.alarms} if before is not None else set()
        for alarm in record.diagnosis.alarms:
            lasts = alarm.kind not in _SLOW or (alarm.kind, alarm.site) in seen
            if lasts and (alarm.kind, alarm.site) not in self._told:
                self._told.add((alarm.kind, alarm.site))
                self._on_alarm(alarm)

    def _tell_once(self, message: str) -> None:
        if ("nothing", "") not in self._told:
            self._told.add(("nothing", ""))
            warnings.warn(message, AlarmWarning, stacklevel=4)


def _warn(alarm: Alarm) -> None:
    warnings.warn(f"{alarm.kind}: {alarm.sentence}", AlarmWarning, stacklevel=5)
