"""Which versions of other libraries this package is tested with, and the word to who has others."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from mhc_compile.errors import UntestedVersionWarning

Version = tuple[int, int]
TESTED: Mapping[str, tuple[Version, Version]] = MappingProxyType(
    {
        "torch": ((2, 13), (2, 14)),
        "transformers": ((5, 23), (5, 23)),
        "timm": ((1, 0), (1, 0)),
        "accelerate": ((1, 7), (1, 15)),
        "peft": ((0, 21), (0, 21)),
        "lightning": ((2, 5), (2, 6)),
        "trl": ((1, 16), (1, 16)),
    }
)
"""Library -> the first and the last version that is tested; `make lowest` and `requirements-ci.txt` have them."""


def check_versions() -> None:
    """Warn, once in a process, of each library that is imported in a version outside of what was tested."""
    for library in TESTED:
        module = sys.modules.get(library)
        if module is not None:
            _check(library, str(getattr(module, "__version__", "")))


@cache
def _check(library: str, installed: str) -> None:
    first, last = TESTED[library]
    found = re.match(r"(\d+)\.(\d+)", installed)
    if found is None or first <= (int(found[1]), int(found[2])) <= last:
        return
    tested = _text(first) if first == last else f"{_text(first)} to {_text(last)}"
    warnings.warn(
        f"{library} {installed} is not a version this package was tested with ({tested}): it may work, but if "
        f"something is odd, try pip install '{library}=={_text(last)}.*' before anything else",
        UntestedVersionWarning,
        stacklevel=5,
    )


def _text(version: Version) -> str:
    return f"{version[0]}.{version[1]}"
