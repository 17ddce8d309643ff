"""The walk in CONTRIBUTING.md that adds a projection, followed to the letter in a copy of the package."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECTIONS = Path("kernels", "formulas", "projections.py")
USE = """
import torch
from torch import nn
import mhc_compile
from mhc_compile.report import connections
from tests.kernels.formulas import test_projections

test_projections.test_averaging_is_a_step_towards_the_mean()
for name in ("averaging",):
    test_projections.test_start_has_the_declared_number_of_logits(name, 4)
    test_projections.test_start_is_row_stochastic_and_maps_the_write_code_to_a_multiple_of_itself(name, 4)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.f = nn.Linear(6, 6, dtype=torch.float64)

    def forward(self, x):
        return x + torch.tanh(self.f(x))


model, x = nn.Sequential(Block(), Block(), Block()).eval(), torch.randn(2, 3, 6, dtype=torch.float64)
made = mhc_compile.transform(model, example_inputs=(x,), modes=("eval",), connection="averaging")
assert made.hyper_connections["1.f"].phi.shape == (24, 9)
torch.testing.assert_close(made(x), model(x), rtol=0, atol=1e-12)
(made(x) * torch.randn_like(x)).sum().backward()
assert all(p.grad is not None for p in made.hyper_connections.parameters())
assert "averaging" in [row.name for row in connections.rows()]
print("done in", mhc_compile.__file__)
"""


def walk() -> list[str]:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    section = text.split("## Add a projection")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


def test_the_walk_adds_a_projection_with_one_file_and_one_test(tmp_path: Path) -> None:
    function, row, test = walk()
    for folder in ("mhc_compile", "kernels", "passes", "tests/kernels"):
        shutil.copytree(ROOT / folder, tmp_path / folder, symlinks=True)
    table = tmp_path / PROJECTIONS
    head, tail = table.read_text().split("PROJECTIONS: Mapping")
    end = "    }\n)\n"
    assert tail.endswith(end)
    table.write_text(f"{head}{function}\n\nPROJECTIONS: Mapping{tail.removesuffix(end)}{row}{end}")
    with (tmp_path / "tests/kernels/formulas/test_projections.py").open("a") as file:
        file.write(f"\n\n{test}")
    command = [sys.executable, "-c", USE]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert str(tmp_path) in done.stdout
