"""How many passes over memory restore streams: shared by the schedules of all devices.

`packed.restore` does write after write. A kernel does up to MAX_WRITES of them on values that stay in registers, and
rounds between them as the forward did, so the result has the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from mhc_compile.kernels.schedules.schedule import Spec

MAX_WRITES = 4  # of one pass: each is two pointers of a kernel

Value = TypeVar("Value")


def named(X: Value, past: Sequence[Value]) -> dict[str, Value]:
    """The inputs of `restore` by name: X, y_0, mix_0, y_1, mix_1, ..."""
    names = [f"{name}_{i}" for i in range(len(past) // 2) for name in ("y", "mix")]
    return {"X": X, **dict(zip(names, past, strict=True))}


@dataclass(frozen=True)
class Pass:
    """Some writes done at once: names of what they read, the name and spec of the streams they make."""

    X: str
    ys: tuple[str, ...]
    mixes: tuple[str, ...]
    result: str
    spec: Spec

    def specs(self, inputs: Mapping[str, Spec]) -> dict[str, Spec]:
        """Specs by the parameter names of `packed.write`."""
        return {"X": inputs[self.X], "y": inputs[self.ys[0]], "mix": inputs[self.mixes[0]]}

    def tensors(self) -> dict[str, str]:
        """Parameters of a kernel that takes MAX_WRITES writes: the last one stands for those that are not there."""
        padded = [min(i, len(self.ys) - 1) for i in range(MAX_WRITES)]
        branches = {f"y_{i}": self.ys[k] for i, k in enumerate(padded)}
        return {"X": self.X, **branches, **{f"mix_{i}": self.mixes[k] for i, k in enumerate(padded)}}


def passes(inputs: Mapping[str, Spec], n: int) -> Iterator[Pass]:
    """The passes in order; branches of one pass have one dtype, as have its coefficients."""
    count, done, streams, dtype = (len(inputs) - 1) // 2, 0, "X", inputs["X"].dtype
    while done < count:
        kinds = [(inputs[f"y_{i}"].dtype, inputs[f"mix_{i}"].dtype) for i in range(done, min(count, done + MAX_WRITES))]
        same = next((i for i, kind in enumerate(kinds) if kind != kinds[0]), len(kinds))
        writes = range(done, done + same)
        dtype = torch.promote_types(dtype, kinds[0][0])
        spec = Spec((n, *inputs["y_0"].shape), dtype)
        result = f"restored_{done}"
        yield Pass(streams, tuple(f"y_{i}" for i in writes), tuple(f"mix_{i}" for i in writes), result, spec)
        done, streams = done + same, result
