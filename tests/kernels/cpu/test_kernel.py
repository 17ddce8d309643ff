"""C++ functions are compiled once per machine, over templates that were parsed once."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mhc_compile.kernels.cpu import kernel as cpu_kernel
from mhc_compile.kernels.cpu.kernel import CppKernel, compiled

LIBRARY = (
    "#ifndef TWICE\n#define TWICE\n#include <cstdint>\ntemplate <class T> T twice(T x) { return 2 * x; }\n#endif\n"
)
PARAMETERS = (("to", "int64_t*"), ("x", "int64_t"))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    compiled.cache_clear()
    return tmp_path / "mhc_cpu"


def kernel(body: str) -> CppKernel:
    return CppKernel("test", LIBRARY, f'extern "C" void kernel(int64_t* to, int64_t x) {{ {body} }}\n', PARAMETERS)


def call(body: str, x: int) -> int:
    result = ctypes.c_int64()
    compiled(kernel(body))(ctypes.addressof(result), x)
    return result.value


def test_kernels_with_the_same_templates_parse_them_once(folder: Path) -> None:
    assert call("*to = twice(x);", 3) == 6
    (parsed,) = folder.glob("*.gch")
    before = parsed.stat().st_mtime_ns
    assert call("*to = twice(twice(x));", 3) == 12
    assert [parsed] == list(folder.glob("*.gch")) and parsed.stat().st_mtime_ns == before
    assert len(list(folder.glob("*.so"))) == 2
    assert not [path for path in folder.iterdir() if path.is_dir()], "nothing temporary is left"


def test_a_compiled_kernel_is_found_by_the_next_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert call("*to = twice(x);", 3) == 6
    compiled.cache_clear()
    monkeypatch.setattr(cpu_kernel, "_compile", lambda *args: pytest.fail("compiled again"))
    assert call("*to = twice(x);", 4) == 8


@pytest.mark.parametrize(("part", "other"), [
    ("FLAGS", ("-O0",)), ("_processor", lambda: "another"), ("_version", lambda path: "another"),
    ("compiler", lambda: "/another/c++"),
])  # fmt: skip
def test_all_that_the_compiler_depends_on_is_in_the_name_of_the_file(
    part: str, other: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = cpu_kernel._version(str(cpu_kernel.compiler()))
    monkeypatch.setattr(cpu_kernel, "_version", lambda path: version)
    before = cpu_kernel._cached("source", ".so")
    assert cpu_kernel._cached("source", ".so") == before != cpu_kernel._cached("other source", ".so")
    monkeypatch.setattr(cpu_kernel, part, other)
    assert cpu_kernel._cached("source", ".so") != before


def test_templates_whose_parsed_form_is_broken_are_read_as_text(folder: Path) -> None:
    call("*to = twice(x);", 3)
    (parsed,) = folder.glob("*.gch")
    parsed.write_bytes(b"of another compiler")
    assert call("*to = twice(x) + 1;", 3) == 7


def test_a_compiler_that_parses_nothing_beforehand_will_do(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "c++"
    script.write_text(f'#!/bin/sh\ncase "$*" in *c++-header*) exit 1;; esac\nexec {cpu_kernel.compiler()} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setattr(cpu_kernel, "compiler", lambda: str(script))
    assert call("*to = twice(x);", 3) == 6
    assert not list(folder.glob("*.gch"))


def test_what_the_compiler_says_is_in_the_error(folder: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as raised:
        compiled(kernel("*to = thrice(x);"))
    assert "thrice" in raised.value.stderr
    assert not list(folder.glob("*.so"))


def test_without_a_compiler_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_kernel, "compiler", lambda: None)
    with pytest.raises(FileNotFoundError, match=r"install g\+\+ or clang\+\+, or set CXX"):
        compiled(kernel("*to = x;"))
