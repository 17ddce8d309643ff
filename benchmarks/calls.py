"""What it costs to choose the program for a call of a transformed model: its inputs, and all that the trace has read.

    python -m benchmarks.calls --json build/bench/calls.json

Time per call after warm-up, on a tiny Llama of 2, 8 and 32 layers: only the choice, beside a whole call of the model.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import mhc_compile
from mhc_compile._torch_compat import tree_flatten

BOUND_MS = 0.25
LAYERS = (2, 8, 32)
ROUNDS = 9
CALLS = 200


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a row per depth; exit code 1 if choosing takes longer than the bound at the last one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json")
    options = parser.parse_args(arguments)
    rows = [measure(layers) for layers in LAYERS]
    for row in rows:
        print(f"{row['layers']:3.0f} layers: choice {row['choice_ms']:.3f} ms, whole call {row['call_ms']:.2f} ms")
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=1) + "\n")
    return 1 if rows[-1]["choice_ms"] > BOUND_MS else 0


def measure(layers: int) -> dict[str, float]:
    """Milliseconds of the choice and of a call, medians over rounds."""
    model: Any = transformed_llama(layers)
    ids = torch.zeros(1, 4, dtype=torch.long)
    flat, tree = tree_flatten(((), {"input_ids": ids, "use_cache": False}))
    entry = model._mhc.entry("")
    with torch.no_grad():
        model(input_ids=ids, use_cache=False)
        assert entry.find(model, flat, tree) is not None
        choice = median_ms(lambda: entry.find(model, flat, tree), CALLS)
        call = median_ms(lambda: model(input_ids=ids, use_cache=False), 5)
    return {"layers": layers, "choice_ms": choice, "call_ms": call}


def median_ms(function: Callable[[], Any], calls: int) -> float:
    """Milliseconds per call, the median over rounds."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(calls):
            function()
        times.append((time.perf_counter() - start) / calls * 1e3)
    return statistics.median(times)


def transformed_llama(layers: int) -> torch.nn.Module:
    """A Llama with narrow layers, in evaluation mode."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(vocab_size=64, num_hidden_layers=layers, **sizes)
    example = {"input_ids": torch.zeros(2, 8, dtype=torch.long), "use_cache": False}
    return mhc_compile.transform(LlamaForCausalLM(config).eval(), n=4, example_kwargs=example, modes=("eval",))


if __name__ == "__main__":
    sys.exit(main())
