"""Code in README and docs: what can run on a small model runs, and all of it names what there is, as it is called."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import mhc_compile
from tests.moved import move

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
_REFERENCE = re.compile(r"^::: ([\w.]+)$", re.MULTILINE)
CHAINS = {
    "README.md": (1, 3, 4), "docs/backend.md": (0,), "docs/diagnostics.md": (0, 1), "docs/training.md": (2, 3, 5),
}  # fmt: skip
"""Page -> blocks that run by themselves; others have tests of their own or need processes, devices or downloads."""


class Net(nn.Module):
    """`blocks.3.mlp` is one of its sites."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.mlp = nn.LayerNorm(8), nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.mlp(self.norm(x))

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Net.Block() for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def blocks(page: str) -> list[str]:
    return _BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))


def names_for(code: str) -> dict[str, Any]:
    """What a reader has by then: a plain model where the block transforms it, else a transformed one."""
    model, x = Net(), torch.randn(2, 3, 8)
    plain = {name: value.clone() for name, value in model.state_dict().items()}
    if "transform(" not in code and "backend(" not in code:
        model = move(mhc_compile.transform(model, n=4, example_inputs=(x,)))
        if "revert(" in code:
            model.load_state_dict(plain)
            mhc_compile.reset_parameters(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    known = {"torch": torch, "mhc_compile": mhc_compile, "checkpoint": mhc_compile.checkpoint}
    given = {"model": model, "x": x, "batch": x, "data": [x, x], "plain_weights": plain, "optimizer": optimizer}
    return {"__name__": "document", **known, **given}


@pytest.mark.parametrize(("page", "number"), [(page, n) for page, numbers in CHAINS.items() for n in numbers])
def test_a_block_runs(page: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = blocks(page)[number]
    exec(compile(code, f"{page}, block {number}", "exec"), names_for(code))


def imported(tree: ast.AST) -> Iterator[tuple[str, Any]]:
    """Names of this package that a block imports, and what they are."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("mhc_compile"):
            module = importlib.import_module(str(node.module))
            yield from ((alias.asname or alias.name, getattr(module, alias.name)) for alias in node.names)


def found(node: ast.expr, known: dict[str, Any]) -> Any:
    """What an expression of names and attributes is; None for what is not this package's."""
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = found(node.value, known)
        if owner is not mhc_compile and not inspect.ismodule(owner):
            return None
        if node.attr == "torchtitan" and not importlib.util.find_spec("torchtitan"):
            return None
        names = {*mhc_compile.__all__, *mhc_compile._LATER, *mhc_compile._NAMES} if owner is mhc_compile else ()
        assert not names or node.attr in names, f"mhc_compile.{node.attr} is not there without an import"
        return getattr(owner, node.attr)
    return None


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)])
def test_code_names_what_there_is(page: str) -> None:
    for code in blocks(page):
        tree = ast.parse(code)
        needs = "torchtitan" in code and not importlib.util.find_spec("torchtitan")
        known = {"mhc_compile": mhc_compile, **({} if needs else dict(imported(tree)))}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                found(node, known)
            if isinstance(node, ast.Call) and callable(function := found(node.func, known)):
                taken = inspect.signature(function).parameters
                open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in taken.values())
                unknown = {k.arg for k in node.keywords if k.arg} - taken.keys()
                assert open_ended or not unknown, f"{ast.unparse(node.func)} takes no {unknown}"


def test_the_reference_names_what_there_is() -> None:
    for page in (ROOT / "docs" / "reference").glob("*.md"):
        for path in _REFERENCE.findall(page.read_text(encoding="utf-8")):
            module, _, name = path.rpartition(".")
            assert hasattr(importlib.import_module(module), name), path
