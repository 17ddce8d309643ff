"""Train a small GPT through `torch.compile(model, backend=...)` and, beside it, through `mhc_compile.transform`.

    python -m examples.train_compiled
    python -m examples.train_compiled --inner eager --steps 200

Both start from the same weights and see the same batches. The streams are the same ones, found by the same passes: the
last column is the largest difference of the two losses so far.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence

import torch
from torch import nn

import mhc_compile
from examples.train_char_gpt import CharGPT, batches, standard_library_text, train_step


def main(arguments: Sequence[str] | None = None) -> float:
    """Train both and print their losses; returns the largest difference."""
    options = _parse(arguments)
    torch.manual_seed(0)
    plain = CharGPT(options.context, options.width, options.layers, heads=4)
    sampler = batches(standard_library_text(), options.batch, options.context)
    example, _ = next(sampler)

    hyper = mhc_compile.transform(copy.deepcopy(plain), n=4, example_inputs=(example,), modes=("train",))

    backend = mhc_compile.backend(n=4, inner=options.inner)
    backend.attach(plain, (example,))  # the new parameters exist from here on, so the optimizer gets to know them
    compiled = torch.compile(plain, backend=backend)

    models = {"transform": hyper, "backend": compiled}
    optimizers = {name: _optimizer(model) for name, model in models.items()}
    print(f"{options.inner}: {sum(p.numel() for p in backend.parameters()):,} new parameters\n")
    print("  step" + "".join(f"{name:>12}" for name in models) + "  difference")
    furthest = 0.0
    for step in range(1, options.steps + 1):
        characters, following = next(sampler)
        losses = [train_step(model, optimizers[name], characters, following) for name, model in models.items()]
        furthest = max(furthest, abs(losses[0] - losses[1]))
        if step == 1 or step % options.every == 0:
            print(f"{step:6}" + "".join(f"{loss:12.4f}" for loss in losses) + f"{furthest:12.1e}")
    return furthest


def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(mhc_compile.parameter_groups(model, weight_decay=0.1), lr=3e-3)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("steps", 200), ("every", 20), ("batch", 16), ("context", 64), ("width", 64), ("layers", 4)):
        parser.add_argument(f"--{name}", type=int, default=default, help="default: %(default)s")
    parser.add_argument("--inner", default="inductor", help="what compiles the rewritten graphs (default: %(default)s)")
    parser.add_argument("--short", action="store_true", help="a small model and few steps")
    if parser.parse_args(arguments).short:
        parser.set_defaults(steps=12, every=4, batch=4, context=16, width=16, layers=2)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
