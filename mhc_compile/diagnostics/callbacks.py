"""Recorders for the trainers of Transformers and of Lightning. Each library is imported when its callback is made."""

from __future__ import annotations

import importlib
from typing import Any

from mhc_compile.diagnostics.recorder import Recorder
from mhc_compile.errors import MissingPackageError


def huggingface_callback(every: int = 100, **options: Any) -> Any:
    """A `TrainerCallback` that records the model that is trained: `Trainer(..., callbacks=[huggingface_callback()])`.

    Args:
        every: as for `Recorder`; steps of the optimizer, whatever number of batches makes one.
        **options: of `Recorder`. Only the process that writes logs writes records; all look.

    Raises:
        MissingPackageError: Transformers is not installed.
    """
    base: Any = _base("transformers", "TrainerCallback")

    class HyperConnectionsCallback(base):  # type: ignore[misc]
        """Begins a step in front of its first batch, and ends it behind the optimizer, in front of `zero_grad`.

        Attributes:
            recorder: the `Recorder`; None before the training begins.
        """

        recorder: Recorder | None = None

        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            self.recorder = Recorder(model, every, **_here(options, state.is_world_process_zero, state.global_step))

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            assert self.recorder is not None
            self.recorder.begin()

        def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            assert self.recorder is not None
            self.recorder.end()

    return HyperConnectionsCallback()


def lightning_callback(every: int = 100, **options: Any) -> Any:
    """A Lightning `Callback` that records the hyper-connections inside of the module that is trained.

    Args:
        every: as for `Recorder`; batches.
        **options: as for `huggingface_callback`.

    Raises:
        MissingPackageError: Lightning is not installed.
    """
    base: Any = _base("lightning.pytorch", "Callback")

    class HyperConnectionsCallback(base):  # type: ignore[misc]
        """Begins a step in front of each batch, and ends it behind.

        Attributes:
            recorder: the `Recorder`; None before the training begins.
        """

        recorder: Recorder | None = None

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            start = trainer.global_step * trainer.accumulate_grad_batches
            self.recorder = Recorder(pl_module, every, **_here(options, trainer.is_global_zero, start))

        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            assert self.recorder is not None
            self.recorder.begin()

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            assert self.recorder is not None
            self.recorder.end()

    return HyperConnectionsCallback()


def _here(options: dict[str, Any], writes: bool, start: int) -> dict[str, Any]:
    """Options of the recorder of this process."""
    return {**options, "start": start, **({} if writes else {"to": (), "on_alarm": lambda alarm: None})}


def _base(package: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(package), name)
    except ImportError as error:
        raise MissingPackageError(
            f"a callback of {package.partition('.')[0]} needs that library, whose import fails ({error}): run "
            "`pip install 'mhc-compile[frameworks]'`"
        ) from error
