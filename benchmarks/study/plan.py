"""Which runs make up the study."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from mhc_compile.kernels.formulas.connections import CONNECTIONS as KNOWN

CONNECTIONS = ("residual", "hc", "mhc", "mhc-single-pass", "mhc-lite", "identity", "attention")
"""Those of the study, as far as this version has them."""


@dataclass(frozen=True)
class Size:
    """A character GPT and how it is trained; two sites per layer.

    Attributes:
        layers: number of blocks.
        width: channels.
        heads: of attention.
        batch: sequences per step.
        context: characters per sequence.
        steps: of the optimizer.
        lr: learning rate behind the warm-up.
    """

    layers: int
    width: int
    heads: int
    batch: int
    context: int
    steps: int
    lr: float = 2e-3


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        study: "gpt" (12 sites), "deep" (64 narrow sites, for stability) or "upcycle".
        connection: what the sites compute; `residual` is the plain model.
        seed: of weights and of batches: runs with the same seed see the same.
        size: the model, and how long it is trained.
        plain_steps: so many of its steps are trained plain, then the checkpoint is converted.
        n: number of streams.
    """

    study: str
    connection: str
    seed: int
    size: Size
    plain_steps: int = 0
    n: int = 4

    @property
    def name(self) -> str:
        """The folder of the run: another size or another number of streams is another run."""
        settings = hashlib.sha1(repr((self.size, self.plain_steps, self.n)).encode()).hexdigest()[:8]
        return f"{self.study}-{self.connection}-{self.seed}-{settings}"


GPT = Size(layers=6, width=64, heads=4, batch=16, context=64, steps=1000)
DEEP = Size(layers=32, width=32, heads=2, batch=8, context=48, steps=400, lr=1e-3)
SEEDS = (0, 1, 2)


def plan_runs(short: bool) -> list[Run]:
    """All runs, those of one seed side by side, so that a study that is stopped early compares like with like."""
    seeds = SEEDS[:2] if short else SEEDS
    gpt = replace(GPT, steps=80, batch=8) if short else GPT
    deep = replace(DEEP, steps=30, batch=4) if short else DEEP
    upcycled = replace(gpt, steps=gpt.steps * 3 // 2)
    return [run for seed in seeds for run in _of_seed(seed, gpt, deep, upcycled, short)]


def _of_seed(seed: int, gpt: Size, deep: Size, upcycled: Size, short: bool) -> Iterator[Run]:
    known = [name for name in CONNECTIONS if name in KNOWN]
    yield from (Run("gpt", name, seed, gpt) for name in known)
    if not short or seed == SEEDS[0]:
        yield from (Run("deep", name, seed, deep) for name in ("residual", "hc", "mhc"))
    yield from (Run("upcycle", name, seed, upcycled, plain_steps=gpt.steps) for name in ("residual", "mhc"))
