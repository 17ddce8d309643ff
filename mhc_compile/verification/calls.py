"""One call of a model, made so that it leaves no mark and can be repeated."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import fx, nn

from mhc_compile._torch_compat import tree_flatten
from mhc_compile.capture.inputs import Inputs
from mhc_compile.errors import VerificationError
from mhc_compile.programs.variants import training_mode

T = TypeVar("T")


@dataclass(frozen=True)
class Call:
    """A call with fixed inputs and random numbers.

    Attributes:
        inputs: its arguments, which are copied for each call: some models write into theirs.
        mode: "train" or "eval".
        training: the flag that all modules get, None for the flags they have.
    """

    inputs: Inputs
    mode: str
    training: bool | None

    def of(self, model: nn.Module) -> Any:
        """What the model returns; it may be changed by it, as any model by a call."""
        args, kwargs = copied((self.inputs.args, self.inputs.kwargs))
        with self.repeatable(), training_mode(model, self.training):
            return model(*args, **kwargs)

    def of_graph(self, interpreter: fx.Interpreter) -> Any:
        """The flat outputs of a graph with a placeholder for each flat input."""
        flat, _ = tree_flatten(copied((self.inputs.args, self.inputs.kwargs)))
        with self.repeatable():
            return interpreter.run(*flat, enable_io_processing=False)

    @contextmanager
    def repeatable(self) -> Iterator[None]:
        """The same random numbers each time, those of the process untouched; gradients as in training or evaluation."""
        with torch.random.fork_rng(), torch.set_grad_enabled(self.mode == "train"):
            torch.manual_seed(0)
            yield


def copied(value: T) -> T:
    """A deep copy.

    Raises:
        VerificationError: it cannot be copied.
    """
    try:
        return copy.deepcopy(value)
    except Exception as error:
        raise VerificationError(
            f"{type(value).__name__} cannot be copied, and a call could change it: write verify=False "
            f"({type(error).__name__}: {error})"
        ) from error
