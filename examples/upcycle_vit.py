"""Give a trained vision transformer hyper-connections, keep training, and go back.

    python -m examples.upcycle_vit
    python -m examples.upcycle_vit --short

1. timm's vit_tiny learns which way the stripes of synthetic images run, for some steps.
2. `transform(init="preserve")` gives it four residual streams. Its outputs stay the same.
3. Training goes on, the new parameters included.
4. `revert` returns a plain timm model over the same weights.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mhc_compile

CLASSES = 4
BATCH = 8
IMAGE = 64
TOLERANCE = 1e-4  # of the output's rms: what fp32 rounding may cost


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the four steps and print what happens."""
    options = _parse(arguments)
    torch.manual_seed(0)
    depth = {"depth": 2} if options.short else {}
    model = timm.create_model("vit_tiny_patch16_224", img_size=IMAGE, num_classes=CLASSES, **depth)
    images, _ = stripes(BATCH)

    print(f"1. train vit_tiny as it is, {options.steps} steps")
    train(model, options.steps, options.every)

    print("2. four residual streams instead of one")
    hyper = mhc_compile.transform(model, n=4, example_inputs=(images,))
    plan = hyper.mhc_plan
    print(f"   {len(plan.sites)} residual connections rewritten, {plan.parameters:,} new parameters")
    difference = relative_difference(model, hyper, images)
    print(f"   outputs before and after differ by {difference:.1e} of their rms")
    if not difference < TOLERANCE:
        raise SystemExit(f"the transformed model computes something else: {difference:.1e}")

    print(f"3. train on, {options.steps} steps")
    train(hyper, options.steps, options.every)
    print(f"   the new parameters moved by up to {largest_change(model, hyper):.1e}")

    print("4. back to a plain timm model")
    plain = mhc_compile.revert(hyper)
    # The weights stay trained; what the streams had learned is dropped, so the function changes a little.
    print(f"   {type(plain).__name__}, differing by {relative_difference(hyper, plain, images):.1e} of the rms")


def stripes(count: int) -> tuple[Tensor, Tensor]:
    """Noisy images `[count, 3, IMAGE, IMAGE]` of stripes, and which of the `CLASSES` directions they run in."""
    labels = torch.randint(CLASSES, (count,))
    angle = labels * math.pi / CLASSES
    axis = torch.linspace(0, 6 * math.pi, IMAGE)
    phase = torch.cos(angle)[:, None, None] * axis + torch.sin(angle)[:, None, None] * axis[:, None]
    images = torch.sin(phase + torch.rand(count, 1, 1) * 2 * math.pi)[:, None].expand(-1, 3, -1, -1)
    return images + 0.3 * torch.randn(count, 3, IMAGE, IMAGE), labels


def train(model: nn.Module, steps: int, every: int) -> None:
    """Some steps of AdamW on fresh batches, printing the mean loss of every `every` steps."""
    # Weight decay must not pull the new biases to zero, where they would switch the streams off: see parameter_groups.
    optimizer = torch.optim.AdamW(mhc_compile.parameter_groups(model, weight_decay=0.05), lr=3e-4)
    model.train()
    losses: list[float] = []
    for step in range(1, steps + 1):
        images, labels = stripes(BATCH)
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if step % every == 0:
            print(f"   step {step:4}  loss {sum(losses[-every:]) / every:.3f}")


@torch.no_grad()
def relative_difference(a: nn.Module, b: nn.Module, images: Tensor) -> float:
    """Largest difference of the outputs, in units of the rms of the first."""
    expected, actual = a.eval()(images), b.eval()(images)
    return ((expected - actual).abs().max() / expected.square().mean().sqrt()).item()


@torch.no_grad()
def largest_change(model: nn.Module, hyper: nn.Module) -> float:
    """How far training moved the new parameters from where a fresh transformation puts them."""
    fresh = mhc_compile.transform(model, n=4, example_inputs=stripes(BATCH)[:1], modes=("eval",))
    start = dict(fresh.hyper_connections.named_parameters())
    return max((p - start[name]).abs().max().item() for name, p in hyper.hyper_connections.named_parameters())


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30, help="per phase (default: %(default)s)")
    parser.add_argument("--every", type=int, default=10, help="steps between two lines (default: %(default)s)")
    parser.add_argument("--short", action="store_true", help="a shallow model and few steps")
    if parser.parse_args(arguments).short:
        parser.set_defaults(steps=4, every=2)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
