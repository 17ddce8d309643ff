"""One C++ function as data, and the function compiled: one shared library per source, kept on disk."""

from __future__ import annotations

import contextlib
import ctypes
import getpass
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math",
         "-fPIC", "-fopenmp", "-Wno-psabi")  # fmt: skip
"""Not -ffast-math: NaN and inf must come out where they go in."""


@dataclass(frozen=True)
class CppKernel:
    """A function of C++.

    Attributes:
        name: what it computes, for reports and generated programs.
        library: templates, in an include guard.
        code: `extern "C" void kernel(...)`; other names at file scope begin with `kernel`, too.
        parameters: name and C type of each parameter, in order: pointers, then `int64_t` sizes.
    """

    name: str
    library: str
    code: str
    parameters: tuple[tuple[str, str], ...]

    @cached_property
    def source(self) -> str:
        """Everything that must be compiled."""
        return self.library + self.code

    def source_named(self, name: str) -> str:
        """The source with `name` in place of `kernel`: several can stand in one file."""
        return self.library + self.code.replace("kernel", name)

    def declaration(self, name: str) -> str:
        """What a caller of `source_named(name)` must have seen."""
        arguments = ", ".join(f"{ctype} {key}" for key, ctype in self.parameters)
        return f'namespace mhc {{ struct bf16; struct f16; }}\nextern "C" void {name}({arguments});\n'


@cache
def compiler() -> str | None:
    """The C++ compiler: `$CXX`, or the first of g++, clang++ and c++ on the path; None where there is none."""
    for name in (os.environ.get("CXX"), "g++", "clang++", "c++"):
        if name and (path := shutil.which(name)):
            return path
    return None


@cache
def compiled(kernel: CppKernel) -> Callable[..., None]:
    """The function, to be called with addresses and sizes. Compiled at most once per machine.

    Raises:
        OSError: no compiler, a folder that cannot be written, a library that cannot be loaded.
        subprocess.CalledProcessError: the compiler rejects the source; its messages are in `stderr`.
    """
    function: Callable[..., None] = ctypes.CDLL(str(_shared_library(kernel)))["kernel"]
    function.restype = None  # type: ignore[attr-defined]
    function.argtypes = [  # type: ignore[attr-defined]
        ctypes.c_void_p if ctype.endswith("*") else ctypes.c_int64 for _, ctype in kernel.parameters
    ]
    return function


def _shared_library(kernel: CppKernel) -> Path:
    library = _cached(kernel.source, ".so")
    if not library.exists():
        try:
            _compile(kernel.source, library, "-shared", "-include", str(_templates(kernel.library)))
        except subprocess.CalledProcessError:  # clang does not forgive a parsed header that is broken, as gcc does
            _compile(kernel.source, library, "-shared")
    return library


def _templates(library: str) -> Path:
    """A header that the compiler has parsed before: without it, it would spend two thirds of its time on that.

    With `-include` it takes the parsed form, which lies beside, or else the header; the guard in there makes the
    templates in the source of the kernel an empty text.
    """
    header = _cached(library, ".h")
    parsed = header.with_name(f"{header.name}.gch")
    if not header.exists():
        _place(header, lambda path: path.write_text(library))
    if not parsed.exists():
        with contextlib.suppress(subprocess.CalledProcessError):  # a compiler that cannot do it reads the header
            _place(parsed, lambda path: _run(path, "-x", "c++-header", str(header)))
    return header


def _cached(source: str, suffix: str) -> Path:
    """Where what is made of a source lies: depends on all that the compiler depends on."""
    path = compiler()
    if path is None:
        raise FileNotFoundError("no C++ compiler: install g++ or clang++, or set CXX")
    key = hashlib.sha256("\0".join((path, _version(path), _processor(), *FLAGS, source)).encode()).hexdigest()
    return _cache_folder() / f"{key}{suffix}"


def _compile(source: str, result: Path, *options: str) -> None:
    def build(path: Path) -> None:
        text = path.with_name("source.cpp")
        text.write_text(source)
        _run(path, *options, str(text))

    _place(result, build)


def _run(result: Path, *arguments: str) -> None:
    command = [str(compiler()), *FLAGS, *arguments, "-o", str(result)]
    subprocess.run(command, check=True, capture_output=True, text=True)


def _place(path: Path, fill: Callable[[Path], Any]) -> None:
    """Under another name first: processes that race each rename a whole file into place."""
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        made = Path(scratch, path.name)
        fill(made)
        made.replace(path)


def _cache_folder() -> Path:
    """Beside Inductor's files: `$TORCHINDUCTOR_CACHE_DIR`, or the folder that Inductor itself would take."""
    root = os.environ.get("TORCHINDUCTOR_CACHE_DIR") or Path(
        tempfile.gettempdir(), f"torchinductor_{getpass.getuser()}"
    )
    folder = Path(root, "mhc_cpu")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@cache
def _version(path: str) -> str:
    return subprocess.run([path, "--version"], check=True, capture_output=True, text=True).stdout


@cache
def _processor() -> str:
    """What -march=native depends on: a cache may lie on a disk that several machines share."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
