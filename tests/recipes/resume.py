"""Training that is interrupted goes on bit by bit: `python -m tests.recipes.resume` prints the table of the recipe.

Each model of `families.py` is loaded, transformed and trained for ten steps in the `Trainer`, which saves it after
five. A new process loads what was saved, predicts, and trains the other five.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

import mhc_compile
from tests.recipes.families import FAMILIES, Family

STEPS, HALF = 10, 5
COLUMNS = ("model", "class", "sites", "losses of steps 6 to 10", "all weights after step 10", "generate or predict")


class Predicting(TrainerCallback):
    """What the model predicts when it is saved; that draws no random number and leaves the model in training."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.seen: list[torch.Tensor] = []

    def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Predict as an evaluation would."""
        if state.global_step == HALF:
            self.seen.append(self.family.predict(model.eval()))
            model.train()


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; exit code 1 if anything is not the same to the last bit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--resume", metavar="FOLDER", help="what the second process is called with")
    options = parser.parse_args(arguments)
    if options.resume:
        print(json.dumps([resume(name, Path(options.resume) / name) for name in options.only]))
        return 0
    rows = table(options.only)
    for row in (COLUMNS, ["---"] * len(COLUMNS), *rows):
        print("| " + " | ".join(row) + " |")
    return 0 if all(cell == "equal" for row in rows for cell in row[3:]) else 1


def table(names: Sequence[str]) -> list[list[str]]:
    """A row for each model; cells of the last three columns are `equal`, or say how far apart."""
    with tempfile.TemporaryDirectory() as folder:
        first = {name: train(name, Path(folder) / name) for name in names}
        command = [sys.executable, "-m", "tests.recipes.resume", "--resume", folder, "--only", *names]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr)
        second = json.loads(done.stdout.splitlines()[-1])
    return [[name, *first[name], *cells] for name, cells in zip(names, second, strict=True)]


def train(name: str, folder: Path) -> list[str]:
    """The run that is not interrupted; class and number of sites."""
    family = FAMILIES[name]
    family.make().save_pretrained(folder / "plain")
    plain = type(family.make()).from_pretrained(folder / "plain")
    model = mhc_compile.transform(plain, n=4)
    predicting = Predicting(family)
    made = trainer(model, family, folder, [predicting])
    made.train()
    torch.save(
        {"weights": model.state_dict(), "losses": losses(made), "predicted": predicting.seen[0]}, folder / "whole.pt"
    )
    return [family.kind, str(len(model.mhc_plan.sites))]


def resume(name: str, folder: Path) -> list[str]:
    """The second half, in another process, compared with the run that was not interrupted."""
    family, whole = FAMILIES[name], torch.load(folder / "whole.pt")
    checkpoint = folder / f"checkpoint-{HALF}"
    model = mhc_compile.from_pretrained(checkpoint)
    predicted = family.predict(model)
    made = trainer(model, family, folder, [])
    made.train(resume_from_checkpoint=str(checkpoint))
    now = model.state_dict()
    weights = furthest([apart(now[key], value) for key, value in whole["weights"].items()])
    steps = [
        apart(torch.tensor(a), torch.tensor(b))
        for a, b in zip(losses(made)[HALF:], whole["losses"][HALF:], strict=True)
    ]
    return [told(furthest(steps)), told(weights), told(apart(predicted, whole["predicted"]))]


def trainer(model: Any, family: Family, folder: Path, callbacks: list[TrainerCallback]) -> Trainer:
    """As in any script; the data set is what it was."""
    settings = TrainingArguments(
        output_dir=str(folder), max_steps=STEPS, save_steps=HALF, logging_steps=1, per_device_train_batch_size=2,
        learning_rate=1e-2, report_to="none", disable_tqdm=True, use_cpu=True, logging_nan_inf_filter=False,
    )  # fmt: skip
    return Trainer(model, settings, train_dataset=family.rows(16), callbacks=callbacks)


def losses(made: Trainer) -> list[float]:
    """Of all steps."""
    return [entry["loss"] for entry in made.state.log_history if "loss" in entry]


def apart(value: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference."""
    return (value.double() - other.double()).abs().max().item()


def furthest(differences: list[float]) -> float:
    """The largest; NaN if one is, which `max` may pass over."""
    return torch.tensor(differences).max().item()


def told(difference: float) -> str:
    """A cell of the table."""
    return "equal" if difference == 0 else f"{difference:.1e}"


if __name__ == "__main__":
    sys.exit(main())
