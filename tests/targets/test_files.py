"""Files as people have them: in packages, beside others, called like modules of Python."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mhc_compile.errors import FactoryError, UnknownTargetError
from mhc_compile.targets import resolve
from mhc_compile.targets.files import file_of, importable

LAYERS = "from torch import nn\ndef build(width=3): return nn.Linear(width, width)\n"
RELATIVE = "from .layers import build\n"


@pytest.fixture(autouse=True)
def _untouched() -> Iterator[None]:
    """Whatever a target does, the path and the modules of Python are what they were."""
    path, modules = list(sys.path), dict(sys.modules)
    yield
    assert sys.path == path
    assert all(sys.modules[name] is modules[name] for name in sys.stdlib_module_names if name in modules)
    for name in set(sys.modules) - set(modules):
        del sys.modules[name]


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def width_of(target: str) -> int:
    return resolve(target).model.in_features


PROJECTS = {
    "a sibling": ({"pkg_a/__init__.py": "", "pkg_a/layers.py": LAYERS, "pkg_a/net.py": RELATIVE}, "pkg_a/net.py"),
    "a package above": (
        {
            "pkg_b/__init__.py": "",
            "pkg_b/layers.py": LAYERS,
            "pkg_b/sub/__init__.py": "",
            "pkg_b/sub/net.py": "from ..layers import build",
        },
        "pkg_b/sub/net.py",
    ),
    "the package itself": ({"pkg_c/__init__.py": RELATIVE, "pkg_c/layers.py": LAYERS}, "pkg_c/__init__.py"),
    "by the name of the package": (
        {"pkg_d/__init__.py": "", "pkg_d/layers.py": LAYERS, "pkg_d/net.py": "from pkg_d.layers import build"},
        "pkg_d/net.py",
    ),
    "beside it, as a script would": (
        {"pkg_e/__init__.py": "", "pkg_e/layers_e.py": LAYERS, "pkg_e/net.py": "from layers_e import build"},
        "pkg_e/net.py",
    ),
    "only when it is called": (
        {
            "pkg_f/__init__.py": "",
            "pkg_f/layers.py": LAYERS,
            "pkg_f/net.py": "def build():\n from .layers import build as b\n return b()",
        },
        "pkg_f/net.py",
    ),
    "a package called like one of Python": (
        {"code/__init__.py": "", "code/layers.py": LAYERS, "code/net.py": RELATIVE},
        "code/net.py",
    ),
    "a package called like one that is imported": (
        {"torch/__init__.py": "", "torch/layers.py": LAYERS, "torch/net.py": RELATIVE},
        "torch/net.py",
    ),
    "a package whose name is no identifier": (
        {"my-net v1.0/__init__.py": "", "my-net v1.0/layers.py": LAYERS, "my-net v1.0/net.py": RELATIVE},
        "my-net v1.0/net.py",
    ),
    "folders without __init__": ({"plain_g/layers.py": LAYERS, "plain_g/net.py": RELATIVE}, "plain_g/net.py"),
    "a file of a package called like one of Python": (
        {"pkg_h/__init__.py": "", "pkg_h/layers.py": LAYERS, "pkg_h/inspect.py": RELATIVE, "pkg_h/types.py": "1 / 0"},
        "pkg_h/inspect.py",
    ),
}


@pytest.mark.parametrize("case", PROJECTS)
def test_a_file_imports_its_neighbours(case: str, tmp_path: Path) -> None:
    files, target = PROJECTS[case]
    write(tmp_path, files)
    assert width_of(f"{tmp_path / target}:build") == 3
    assert width_of(f"{tmp_path / target}:build") == 3  # again, with everything imported


def test_folders_without_init_are_seen_from_the_working_directory(tmp_path: Path, monkeypatch) -> None:
    write(tmp_path, {"models/layers.py": LAYERS, "models/vision/net.py": "from ..layers import build"})
    monkeypatch.chdir(tmp_path)
    assert width_of("models/vision/net.py:build") == 3


def test_what_lies_where_the_command_runs_is_found(tmp_path: Path, monkeypatch) -> None:
    write(tmp_path, {"shared_i.py": LAYERS, "models_i/net.py": "from shared_i import build"})
    monkeypatch.chdir(tmp_path)
    assert width_of("models_i/net.py:build") == 3


@pytest.mark.parametrize("name", ["inspect", "types", "wave", "torch", "timm", "my.net", "2d-net"])
def test_a_file_called_like_something_else_leaves_that_alone(name: str, tmp_path: Path) -> None:
    write(tmp_path, {f"{name}.py": LAYERS})
    assert width_of(f"{tmp_path / name}.py:build") == 3
    assert sys.modules["inspect"] is inspect and "wave" not in sys.modules


def test_classes_of_such_a_file_can_be_found_by_their_module(tmp_path: Path) -> None:
    text = "@dataclass\nclass C:\n    w: int = 3\ndef build(): return nn.Linear(C().w, 2)"
    imports = "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom torch import nn"
    write(tmp_path, {"inspect.py": f"{imports}\n{text}"})
    assert width_of(f"{tmp_path}/inspect.py:build") == 3


def test_a_file_that_was_written_again_is_read_again(tmp_path: Path) -> None:
    write(tmp_path, {"net_j.py": LAYERS})
    assert width_of(f"{tmp_path}/net_j.py:build") == 3
    write(tmp_path, {"net_j.py": LAYERS.replace("width=3", "width=14")})
    assert width_of(f"{tmp_path}/net_j.py:build") == 14


def test_two_packages_of_one_name(tmp_path: Path) -> None:
    for i in (3, 4):
        layers = LAYERS.replace("width=3", f"width={i}")
        write(tmp_path / str(i), {"pkg_k/__init__.py": "", "pkg_k/layers.py": layers, "pkg_k/net.py": RELATIVE})
        assert width_of(f"{tmp_path / str(i)}/pkg_k/net.py:build") == i


def test_a_module_of_python_asked_for_by_name_says_how_to_get_the_file(tmp_path: Path, monkeypatch) -> None:
    write(tmp_path, {"inspect.py": LAYERS})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownTargetError, match=r"write inspect\.py:build"):
        resolve("inspect:build")


@pytest.mark.parametrize(
    ("files", "target", "error"),
    [
        ({"pkg_l/__init__.py": "1 / 0", "pkg_l/net.py": LAYERS}, "pkg_l/net.py", "ZeroDivisionError"),
        ({"pkg_m/__init__.py": "", "pkg_m/net.py": RELATIVE}, "pkg_m/net.py", r"No module named 'pkg_m\.layers'"),
        ({"plain_n/net.py": RELATIVE}, "plain_n/net.py", r"No module named '.*plain_n\.layers'"),
        ({"net_o.py": "from torch import no_such_name"}, "net_o.py", "no_such_name"),
    ],
)
def test_what_cannot_be_imported_is_said_with_the_line(files, target, error, tmp_path: Path) -> None:
    write(tmp_path, files)
    with pytest.raises(FactoryError, match=error) as caught:
        resolve(f"{tmp_path / target}:build")
    assert f"importing {tmp_path / target}" in str(caught.value)


def test_neighbours_stay_behind_other_modules_while_a_model_runs(tmp_path: Path) -> None:
    file = write(tmp_path, {"net.py": LAYERS}) / "net.py"
    before = list(sys.path)
    with importable(file, first=False):
        assert sys.path[: len(before)] == before and str(tmp_path) in sys.path
    with importable(file):
        assert sys.path[0] == str(tmp_path)
        sys.path.insert(0, "added by the code itself")
    assert sys.path == ["added by the code itself", *before]
    sys.path.remove("added by the code itself")


def test_targets_that_are_files() -> None:
    assert file_of("a/b.py:make") == Path("a/b.py").resolve()
    assert file_of("package.module:make") is None and file_of("timm:vit") is None
