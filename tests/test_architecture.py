"""Who may import whom, read from the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COMPAT = ROOT / "mhc_compile" / "_torch_compat.py"
ALL = sorted(p for folder in ("mhc_compile", "passes", "kernels") for p in (ROOT / folder).rglob("*.py"))
KERNEL_INTERFACE = {"mhc_compile.kernels.streams", "mhc_compile.kernels.connections"}


def imports(source: str) -> set[str]:
    """Every module or `module.name` that the code imports, and every `torch.a.b` it names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute):
            found.add(ast.unparse(node))
    return found


def starts(names: set[str], *packages: str) -> set[str]:
    return {n for n in names if any(n == p or n.startswith(f"{p}.") for p in packages)}


def private_torch(names: set[str]) -> set[str]:
    def private(name: str) -> bool:
        head, *parts = name.split(".")
        return head == "torch" and any(p.startswith("_") and not p.startswith("__") for p in parts)

    return {n for n in names if private(n)}


def files(folder: str) -> list[Path]:
    return [p for p in ALL if p.is_relative_to(ROOT / folder)]


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_reader_sees_every_kind_of_import():
    source = "import rich.table\nfrom torch._dynamo import x\nfrom torch import _C, fx\ny = torch._inductor.config.z"
    found = imports(source)
    assert {"rich.table", "torch._dynamo.x", "torch.fx"} <= found
    assert private_torch(found) == {"torch._dynamo.x", "torch._C", "torch._inductor.config.z", "torch._inductor.config",
                                    "torch._inductor"}  # fmt: skip
    assert starts(found, "rich") == {"rich.table"} and not starts({"richer"}, "rich")


@pytest.mark.parametrize("path", [p for p in ALL if p != COMPAT], ids=label)
def test_private_torch_is_named_in_the_compat_table_only(path):
    assert not private_torch(imports(path.read_text()))


@pytest.mark.parametrize("path", files("passes"), ids=label)
def test_passes_know_neither_reports_nor_kernel_internals(path):
    found = imports(path.read_text())
    assert not starts(found, "rich", "triton")
    kernels = starts(found, "mhc_compile.kernels")
    assert all(starts({name}, *KERNEL_INTERFACE) for name in kernels if name not in KERNEL_INTERFACE)
    assert not {name for name in kernels if name.rpartition(".")[2].startswith("_")}
    shared = [f"mhc_compile.{name}" for name in ("passes", "kernels", "_torch_compat", "config", "errors")]
    assert starts(found, "mhc_compile") <= starts(found, *shared)


@pytest.mark.parametrize("path", files("kernels"), ids=label)
def test_kernels_know_nothing_of_graphs_and_models(path):
    found = imports(path.read_text())
    assert not starts(found, "torch.fx", "mhc_compile.passes", "networkx", "rich")
    shared = [f"mhc_compile.{name}" for name in ("kernels", "_torch_compat", "config", "errors")]
    assert starts(found, "mhc_compile") <= starts(found, *shared)


def test_only_the_reports_import_rich():
    found = {path.stem for path in files("mhc_compile") if starts(imports(path.read_text()), "rich")}
    assert found == {"report", "report_parts", "cli"}


@pytest.mark.parametrize("path", [p for p in ALL if p.name != "__init__.py"], ids=label)
def test_every_file_says_what_it_is(path):
    assert ast.get_docstring(ast.parse(path.read_text()))


IMPORTS = """
import sys, mhc_compile
print([m for m in ("torch._dynamo", "torch._inductor", "rich") if m in sys.modules])
import mhc_compile.cli
print([m for m in ("timm", "torchvision", "transformers") if m in sys.modules])
"""


def test_importing_the_package_imports_neither_dynamo_nor_rich_and_its_command_line_no_model_library():
    out = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["[]", "[]"]
