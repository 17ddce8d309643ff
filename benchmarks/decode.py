"""`python -m benchmarks.decode`: time per token of greedy generation with a key-value cache, plain against ours.

A Llama of C = 512 and 8 layers, one core, `generate` of each candidate in turn. A token's time is that from the one
before it, from the third token on, so that neither the prompt nor compilation is in it. New parameters are moved by
noise first. What Dynamo compiles after the second token of a round after the first is counted: it must be nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

import mhc_compile
from benchmarks.timing import keep_freed_memory

BOUNDS = {"transformed": ("plain", 1.2), "backend, inductor": ("plain, inductor", 1.1)}
PROMPT = 8


@dataclass
class Clock:
    """A stopping criterion that never stops: it sees each token once. Times are of the one processor.

    Attributes:
        compiled: how many graphs there are so far.
        times: when each token was there.
        graphs: how many graphs there were then.
    """

    compiled: Callable[[], int]
    times: list[float] = field(default_factory=list)
    graphs: list[int] = field(default_factory=list)

    def __call__(self, ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """No row is done."""
        self.times.append(time.process_time())
        self.graphs.append(self.compiled())
        return torch.zeros(len(ids), dtype=torch.bool)


@dataclass(frozen=True)
class Row:
    """One candidate: milliseconds per token, median and fastest, and what was compiled after the second token."""

    name: str
    median: float
    fastest: float
    late: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a row per candidate; exit code 1 if a bound is missed, or something is compiled after the second token."""
    options = _parse(arguments)
    keep_freed_memory()
    torch.set_num_threads(1)
    rows = measure(options)
    by_name = {row.name: row for row in rows}
    for row in rows:
        print(f"{row.name:>18} {row.median:8.2f} ms  fastest {row.fastest:8.2f}  compiled late {row.late}")
    missed = [f"{name}: compiled after the second token" for name, row in by_name.items() if row.late]
    for name, (base, bound) in BOUNDS.items():
        if name in by_name and base in by_name:
            ratio = by_name[name].median / by_name[base].median
            print(f"{name} over {base}: {ratio:.3f} (at most {bound})")
            missed += [f"{name}: {ratio:.3f}"] if ratio > bound else []
    if options.json:
        Path(options.json).write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    print("MISSED " + ", ".join(missed) if missed else "met")
    return 1 if missed else 0


def measure(options: argparse.Namespace) -> list[Row]:
    """All candidates, `options.rounds` generations of each in turn, after one that is not timed."""
    ids = torch.randint(1, 256, (1, PROMPT), generator=torch.Generator().manual_seed(0))
    makers = {name: make for name, make in MAKERS.items() if name in options.only}
    candidates = {name: make(llama(options)) for name, make in makers.items()}
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    late = dict.fromkeys(candidates, 0)
    for number in range(options.rounds + 1):
        for name, (model, compiled) in candidates.items():
            clock = generate(model, ids, options.tokens, Clock(compiled))
            if number:
                late[name] += clock.graphs[-1] - clock.graphs[1]
                taken[name].append(
                    statistics.median(b - a for a, b in zip(clock.times[1:], clock.times[2:], strict=False)) * 1e3
                )
    return [Row(name, statistics.median(values), min(values), late[name]) for name, values in taken.items()]


def generate(model: Any, ids: Tensor, tokens: int, clock: Clock) -> Clock:
    """Greedy generation of so many tokens, timed by the clock."""
    with torch.no_grad():
        model.generate(ids, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, stopping_criteria=[clock])
    return clock


def llama(options: argparse.Namespace) -> LlamaForCausalLM:
    """Random weights, in evaluation mode."""
    torch.manual_seed(0)
    width = options.width
    config = LlamaConfig(
        vocab_size=256, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=options.layers,
        num_attention_heads=8, num_key_value_heads=8, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def _plain(model: nn.Module) -> tuple[nn.Module, Callable[[], int]]:
    return model, lambda: 0


def _compiled(model: nn.Module) -> tuple[nn.Module, Callable[[], int]]:
    model.compile()
    return model, lambda: 0


def _transformed(model: nn.Module) -> tuple[nn.Module, Callable[[], int]]:
    hyper: Any = _moved(mhc_compile.transform(model, n=4, modes=("eval",)))
    entries = hyper._mhc.entries

    def made() -> int:
        served = [entry.fallback for entry in entries.values() if entry.fallback is not None]
        return sum(len(entry.programs) for entry in entries.values()) + sum(len(f._held.records) for f in served)

    return hyper, made


def _through_backend(inner: str) -> Callable[[nn.Module], tuple[nn.Module, Callable[[], int]]]:
    def make(model: nn.Module) -> tuple[nn.Module, Callable[[], int]]:
        backend = mhc_compile.backend(n=4, inner=inner)
        backend.attach(model, modes=("eval",))
        model.compile(backend=backend)
        return _moved(model), lambda: len(backend.records)

    return make


def _moved(model: Any) -> Any:
    """With hyper-connections that matter."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.hyper_connections.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


MAKERS = {
    "plain": _plain,
    "transformed": _transformed,
    "backend, eager": _through_backend("eager"),
    "plain, inductor": _compiled,
    "backend, inductor": _through_backend("inductor"),
}


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("layers", 8), ("width", 512), ("tokens", 24), ("rounds", 9)):
        parser.add_argument(f"--{name}", type=int, default=default, help="default: %(default)s")
    parser.add_argument("--only", nargs="+", default=list(MAKERS), choices=list(MAKERS), help="some of the candidates")
    parser.add_argument("--json", metavar="FILE", help="write the rows there")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
