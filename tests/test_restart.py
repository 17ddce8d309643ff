"""A run that is stopped and goes on in a new process is the run that was never stopped, bit for bit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mhc_compile
from mhc_compile import checkpoint
from tests.toy_models import WIDTH, Tower

ROOT = Path(__file__).parents[1]


def build():
    """Model and optimizer as a training script makes them, with a dropout that draws random numbers."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = Tower()
    for block in model.blocks:
        block.drop.p = 0.1
    twin = mhc_compile.transform(model, n=4, example_inputs=(torch.randn(4, 3, WIDTH),), modes=("train",))
    return twin, torch.optim.AdamW(mhc_compile.parameter_groups(twin), lr=1e-2)


def train(model, optimizer, steps):
    """Losses and gradients of each step."""
    trace = []
    for step in steps:
        x = torch.randn(4, 3, WIDTH, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss = (model(x) - x.flip(-1)).square().mean()
        loss.backward()
        optimizer.step()
        grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        trace.append({"loss": loss.detach(), **grads})
    return trace


def main(task, folder):
    """`whole` takes 20 steps, `first` 10 and saves, `second` loads and takes the other 10."""
    model, optimizer = build()
    if task == "whole":
        torch.save(train(model, optimizer, range(20)), f"{folder}/whole.trace")
    elif task == "first":
        train(model, optimizer, range(10))
        checkpoint.save(
            {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "random": torch.get_rng_state()},
            f"{folder}/last.pt",
        )
    else:
        state = checkpoint.load(f"{folder}/last.pt")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        torch.save(train(model, optimizer, range(10, 20)), f"{folder}/second.trace")


@pytest.mark.slow
def test_ten_steps_and_ten_in_a_new_process_are_twenty(tmp_path):
    main("whole", tmp_path)
    main("first", tmp_path)
    subprocess.run([sys.executable, "-m", "tests.test_restart", "second", str(tmp_path)], cwd=ROOT, check=True)
    whole, second = torch.load(tmp_path / "whole.trace")[10:], torch.load(tmp_path / "second.trace")
    assert len(whole) == len(second) == 10
    assert any(name.startswith("hyper_connections.") for name in whole[0])
    for step, (a, b) in enumerate(zip(whole, second, strict=True), start=10):
        assert a.keys() == b.keys()
        different = [name for name in a if not torch.equal(a[name], b[name])]
        assert not different, f"step {step}"
    assert whole[0]["loss"] != whole[9]["loss"], "nothing was learned"


if __name__ == "__main__":
    main(*sys.argv[1:])
