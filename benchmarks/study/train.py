"""One run: trained from a seed, with everything in one file, so that it goes on where it was killed."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mhc_compile
from benchmarks.study.plan import Run
from examples.train_char_gpt import CharGPT, standard_library_text
from mhc_compile import checkpoint
from mhc_compile.diagnostics.recorder import Record, Recorder
from mhc_compile.twin.hyper_connections import CHILD, new_parameters

RECORDS, SAVES = 10, 8
"""How often a run looks at its streams, and how often it is saved."""
VALIDATION = 16
"""Batches of text that no run trains on."""
_STATE, _DONE = "state.pt", "done.json"
_WARM_UP = 0.05
DECAY = 0.1


def is_done(run: Run, folder: Path) -> bool:
    """Whether the result of a run is there."""
    return (folder / run.name / _DONE).exists()


def train(run: Run, folder: Path, on_step: Callable[[int], bool]) -> dict[str, Any] | None:
    """Train a run to its end from wherever it is, and write its result.

    Args:
        run: what to train.
        folder: of the study.
        on_step: told the number of steps that are finished, at the start and after each; whether to go on.

    Returns:
        Losses and gradient norms by step, the loss on text that was kept apart, and figures of the streams; None if it
        was stopped, which loses nothing but the steps since it was saved last.
    """
    place = folder / run.name
    if is_done(run, folder):
        found: dict[str, Any] = json.loads((place / _DONE).read_text())
        return found
    place.mkdir(parents=True, exist_ok=True)
    training = Training(run, place / _STATE)
    while on_step(training.step):
        if training.step == run.size.steps:
            result = training.result()
            beside = place / f"{_DONE}.part"
            beside.write_text(json.dumps(result))
            beside.replace(place / _DONE)
            return result
        training.advance()
    training.save()
    return None


class Training:
    """A run that is under way.

    Attributes:
        step: how many steps are finished.
    """

    def __init__(self, run: Run, state: Path) -> None:
        """Begin, or go on from `state` if it exists."""
        self._run, self._state, size = run, state, run.size
        saved = checkpoint.load(state) if state.exists() else None
        self.step: int = saved["step"] if saved else 0
        self._log: dict[str, list[Any]] = saved["log"] if saved else {"losses": [], "gradients": [], "records": []}
        torch.manual_seed(run.seed)
        self._model: nn.Module = CharGPT(size.context, size.width, size.layers, size.heads)
        self._recorder: Recorder | None = None
        if run.plain_steps == 0:
            self._convert()
        groups = mhc_compile.parameter_groups(self._model, weight_decay=DECAY)
        self._optimizer = torch.optim.AdamW(groups, lr=size.lr)
        if run.plain_steps and self.step > run.plain_steps:
            self._upcycle()
        if saved:
            self._model.load_state_dict(saved["model"])
            self._optimizer.load_state_dict(saved["optimizer"])

    def advance(self) -> None:
        """One step."""
        run = self._run
        if run.plain_steps and self.step == run.plain_steps:
            self._upcycle()
        for group in self._optimizer.param_groups:
            group["lr"] = run.size.lr * min(1.0, (self.step + 1) / (_WARM_UP * run.size.steps))
        if self._recorder is not None:
            self._recorder.begin()
        loss = _loss(self._model, run, self.step)
        self._optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self._plain(), math.inf)
        self._optimizer.step()
        if self._recorder is not None:
            self._recorder.end()
        self._log["losses"].append(loss.item())
        self._log["gradients"].append(norm.item())
        self.step += 1
        if self.step % max(1, run.size.steps // SAVES) == 0:
            self.save()

    def save(self) -> None:
        """Write down all that the rest of the run depends on; batches follow from seed and step."""
        state = {"model": self._model.state_dict(), "optimizer": self._optimizer.state_dict()}
        checkpoint.save({**state, "step": self.step, "log": self._log}, self._state)

    def result(self) -> dict[str, Any]:
        """What is kept of a run that has finished."""
        with torch.no_grad():
            kept = [_loss(self._model, self._run, i, validation=True).item() for i in range(VALIDATION)]
        return {"validation": sum(kept) / len(kept), "parameters": _count(self._model), **self._log}

    def _plain(self) -> list[nn.Parameter]:
        """What every connection has: its gradients can be compared."""
        return [p for name, p in self._model.named_parameters() if not name.startswith(f"{CHILD}.")]

    def _convert(self) -> None:
        run = self._run
        if run.connection == "residual":
            return
        example, _ = batch(run, 0)
        options = {"connection": run.connection, "modes": ("train",)}
        self._model = mhc_compile.transform(self._model, n=run.n, example_inputs=(example,), **options)
        every = max(1, run.size.steps // RECORDS)
        self._recorder = Recorder(self._model, every, to=self._keep, on_alarm=lambda alarm: None, start=self.step)

    def _upcycle(self) -> None:
        """From here on with hyper-connections, over the weights and the moments of the optimizer."""
        self._convert()
        for decay in (DECAY, 0.0):
            found = [p for p, decays in new_parameters(self._model) if decays == (decay > 0)]
            if found:
                self._optimizer.add_param_group({"params": found, "weight_decay": decay})

    def _keep(self, record: Record) -> None:
        sites = [[s.composite_forward, s.composite_backward, s.spread] for s in record.diagnosis.sites]
        self._log["records"].append({"step": record.step, "sites": sites})


def batch(run: Run, step: int, *, validation: bool = False) -> tuple[Tensor, Tensor]:
    """Pieces of text `[batch, context]` and the characters that follow, from seed and step alone."""
    text = _text()
    border = len(text) * 9 // 10
    text = text[border:] if validation else text[:border]
    generator = torch.Generator().manual_seed(step if validation else 1_000_003 * (run.seed + 1) + step)
    starts = torch.randint(len(text) - run.size.context - 1, (run.size.batch, 1), generator=generator)
    pieces = text[starts + torch.arange(run.size.context + 1)]
    return pieces[:, :-1], pieces[:, 1:]


def _loss(model: nn.Module, run: Run, step: int, *, validation: bool = False) -> Tensor:
    characters, following = batch(run, step, validation=validation)
    return F.cross_entropy(model(characters).flatten(0, 1), following.flatten())


@functools.cache
def _text() -> Tensor:
    return standard_library_text()


def _count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
