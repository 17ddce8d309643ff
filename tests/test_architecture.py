"""Who may import whom, read from the source."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).parent.parent
COMPAT = ROOT / "mhc_compile" / "_torch_compat.py"
LINKS = {ROOT / "mhc_compile" / name for name in ("passes", "kernels")}
ALL = sorted(
    p
    for folder in ("mhc_compile", "passes", "kernels")
    for p in (ROOT / folder).rglob("*.py")
    if LINKS.isdisjoint(p.parents)
)
KERNEL_INTERFACE = {
    "mhc_compile.kernels.operators.streams",
    "mhc_compile.kernels.operators.single_pass",
    "mhc_compile.kernels.operators.sources",
    "mhc_compile.kernels.operators.sharded",
    "mhc_compile.kernels.formulas.connections",
}
LINES, FILES = 250, 18

_BOTTOM_UP = """
user_warnings errors versions former_modules _torch_compat
kernels.late kernels.define kernels.formulas config targets
kernels.schedules kernels.cpu kernels.triton kernels.operators kernels.inductor kernels
passes.plan passes.graph passes.lift passes.detect passes.sources passes.decide passes.rewrite passes.split
passes.history passes.order passes
wording twin capture programs dynamo files model optimizers verification diagnostics cost report page
export traced checkpoint sharded pretrained transform pipeline restored torchtitan
mhc_compile commands cli
"""
ORDER = _BOTTOM_UP.split()
"""Every room, and every file that lies in none, from the bottom to the top: each imports only what stands before it."""


@dataclass(frozen=True)
class Arrow:
    """One import between two files of the package, wherever it stands: in a function, for types only."""

    source: str
    target: str
    line: int

    def __str__(self) -> str:
        return f"{label(MODULES[self.source])}:{self.line} imports {self.target}"


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "mhc_compile" else ("mhc_compile", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in ALL}


def room_of(module: str) -> str:
    """The folder of a file; for a file that lies in none of the rooms, itself."""
    parent = module.rpartition(".")[0]
    hall = parent in ("", "mhc_compile", "mhc_compile.passes", "mhc_compile.kernels")
    room = module if hall or MODULES[module].name == "__init__.py" else parent
    return room.removeprefix("mhc_compile.")


def arrows(module: str, source: str) -> Iterator[Arrow]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else node.module for name in inside]
        else:
            continue
        yield from (Arrow(module, name, node.lineno) for name in names if name in MODULES and name != module)


def against_the_order(found: Iterable[Arrow]) -> list[str]:
    def is_back(arrow: Arrow) -> bool:
        here, there = room_of(arrow.source), room_of(arrow.target)
        return here != there and ORDER.index(there) > ORDER.index(here)

    return [str(arrow) for arrow in found if is_back(arrow)]


def circles(found: Iterable[Arrow]) -> list[list[str]]:
    graph = nx.DiGraph((arrow.source, arrow.target) for arrow in found)
    return [sorted(part) for part in nx.strongly_connected_components(graph) if len(part) > 1]


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


@cache
def every_arrow() -> tuple[Arrow, ...]:
    return tuple(arrow for module, path in MODULES.items() for arrow in arrows(module, path.read_text()))


def test_the_reader_sees_every_kind_of_import():
    source = "import rich.table\nfrom torch._dynamo import x\nfrom torch import _C, fx\ny = torch._inductor.config.z"
    found = imports(source)
    assert {"rich.table", "torch._dynamo.x", "torch.fx"} <= found
    assert private_torch(found) == {"torch._dynamo.x", "torch._C", "torch._inductor.config.z", "torch._inductor.config",
                                    "torch._inductor"}  # fmt: skip
    assert starts(found, "rich") == {"rich.table"} and not starts({"richer"}, "rich")


def test_every_room_has_a_place_in_the_order():
    assert {room_of(module) for module in MODULES} == set(ORDER) and len(ORDER) == len(set(ORDER))


def test_rooms_import_only_what_stands_below_them():
    assert not against_the_order(every_arrow())


def test_files_import_each_other_in_no_circle():
    assert not circles(every_arrow())


@pytest.mark.parametrize("source", ["def late():\n    {}", "if TYPE_CHECKING:\n    {}"])
def test_an_arrow_back_is_named_with_file_and_line_wherever_it_hides(source: str):
    (found,) = against_the_order(
        arrows("mhc_compile.passes.graph.values", source.format("import mhc_compile.transform"))
    )
    assert found == "passes/graph/values.py:2 imports mhc_compile.transform"


def unmarked(source: str) -> list[int]:
    """Lines with an import of this package inside a function, and no comment there or in the line above."""
    lines = source.splitlines()
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    inside = [n for f in functions for n in ast.walk(f) if isinstance(n, (ast.Import, ast.ImportFrom))]
    late = [n.lineno for n in inside if "mhc_compile" in ast.unparse(n)]
    return [n for n in late if "#" not in lines[n - 1] + lines[n - 2]]


def test_imports_inside_functions_are_marked():
    """They spare the start of the package, or of a command, and hide no arrow: those are counted with the others."""
    assert unmarked("def f():\n    import mhc_compile.passes\n") == [2]
    assert not unmarked("def f():\n    import mhc_compile.passes  # late\n")
    assert not [f"{label(path)}:{line}: add # late" for path in ALL for line in unmarked(path.read_text())]


def test_a_circle_is_found_within_a_room():
    added = list(arrows("mhc_compile.passes.graph.values", "from mhc_compile.passes.graph import sums"))
    assert not against_the_order(added)
    assert circles([*every_arrow(), *added])


HEADERS = sorted((ROOT / "kernels" / "cpu").glob("*.h"))


@pytest.mark.parametrize("path", [*ALL, *HEADERS], ids=label)
def test_no_file_outgrows_one_idea(path):
    assert path.read_text().count("\n") <= LINES


def test_no_file_around_the_package_outgrows_one_idea():
    around = [path for folder in ("tests", "examples", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    assert not [label(path) for path in around if path.read_text().count("\n") > LINES]


def test_every_room_is_in_the_wheel():
    """Clones and editable installs find the folders that `packages` forgets; who installs the wheel does not."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted(module_of(path) for path in ALL if path.name == "__init__.py")


def test_no_room_outgrows_one_glance():
    crowded = {folder: len(list(folder.glob("*.py"))) for folder in {path.parent for path in ALL}}
    assert not {label(folder): count for folder, count in crowded.items() if count > FILES + 1}  # with `__init__.py`


@pytest.mark.parametrize("path", [p for p in ALL if p != COMPAT], ids=label)
def test_private_torch_is_named_in_the_compat_table_only(path):
    assert not private_torch(imports(path.read_text()))


@pytest.mark.parametrize("path", files("passes"), ids=label)
def test_passes_know_neither_reports_nor_kernel_internals(path):
    found = imports(path.read_text())
    assert not starts(found, "rich", "triton")
    kernels = starts(found, "mhc_compile.kernels")
    assert kernels == starts(kernels, *KERNEL_INTERFACE)
    assert not {name for name in kernels if name.rpartition(".")[2].startswith("_")}


@pytest.mark.parametrize("path", files("kernels"), ids=label)
def test_kernels_know_nothing_of_graphs_and_models(path):
    assert not starts(imports(path.read_text()), "torch.fx", "networkx", "rich")


def test_only_the_reports_import_rich():
    found = {path.stem for path in files("mhc_compile") if starts(imports(path.read_text()), "rich")}
    assert found == {"terminal", "parts", "verification", "diagnosis", "estimate_table", "rewrites_table", "console"}


@pytest.mark.parametrize("path", ALL, ids=label)
def test_every_file_and_room_says_what_it_is(path):
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_importing_the_package_imports_nothing_that_takes_long():
    slow = ("torch._dynamo", "torch._inductor", "rich", "sympy", "networkx")
    code = f"import mhc_compile, sys; print([m for m in {slow} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
