"""C++ of `make test` is compiled quickly instead of well: by `tests/quick_c++`, with few optimisations."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.tables import runs_all

SCRIPT = Path(__file__).with_name("quick_c++")
REAL = "MHC_REAL_CXX"
"""Where the script finds the compiler."""


def choose(config: pytest.Config) -> None:
    """For this process and those it starts: the quick compiler, unless all entries run or the user has chosen one.

    Inductor need not find out, with a program for each, which vector instructions compiler and processor have.
    """
    real = shutil.which("g++")
    if not runs_all(config) and real and "CXX" not in os.environ:
        os.environ |= {"CXX": str(SCRIPT), REAL: real, "TORCHINDUCTOR_VEC_ISA_OK": "1"}


@contextmanager
def real_compiler() -> Iterator[None]:
    """Kernels of ours are compiled as for users: what is said about their bits must hold of those."""
    from mhc_compile.kernels.cpu import kernel as cpu_kernel
    from mhc_compile.kernels.cpu import launch as cpu_launch

    def forget() -> None:
        cpu_kernel.compiled.cache_clear()
        cpu_launch._usable.cache_clear()

    with pytest.MonkeyPatch.context() as patch:
        if REAL in os.environ:
            patch.setattr(cpu_kernel, "compiler", lambda: os.environ[REAL])
        forget()
        yield
    forget()


@contextmanager
def no_compiler() -> Iterator[None]:
    """The formulas run in the place of our kernels, as on a machine without a compiler, but no warning says so."""
    from mhc_compile.kernels.cpu import launch as cpu_launch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu_launch, "_usable", lambda kernel: False)
        yield
