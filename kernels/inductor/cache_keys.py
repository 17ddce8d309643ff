"""Keep Inductor's caches honest: what it stores holds our kernels, so their sources must be part of its keys.

Inductor asks each custom pass over graphs for a `uuid()` and hashes it into the key of the FX graph cache and of the
AOTAutograd cache. The pass here changes nothing; its uuid is a hash of all kernels.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from mhc_compile import _torch_compat as compat


def add_sources_to_cache_keys() -> None:
    """Append the pass to Inductor's setting, behind the user's own; nothing happens where it is there already."""
    config = compat.inductor_config
    known = config.post_grad_custom_post_pass
    passes = list(known) if isinstance(known, list | tuple) else [known] if known else []
    if not any(isinstance(each, _pass_class()) for each in passes):
        ours = _pass_class()()
        config.post_grad_custom_post_pass = [*passes, ours] if passes else ours


@cache
def sources_hash() -> str:
    """SHA-256 over every source file of all kernels."""
    digest, folder = hashlib.sha256(), Path(__file__).parent.parent
    for path in sorted([*folder.rglob("*.py"), *folder.rglob("*.h")]):
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


@cache
def _pass_class() -> Any:
    """The class, made when Inductor is first needed: importing this package must not import Inductor."""

    class KernelSources(compat.CustomGraphPass):  # type: ignore[misc]
        """Does nothing to a graph."""

        def __call__(self, graph: Any) -> None:
            pass

        def uuid(self) -> str:
            return f"mhc_compile kernels {sources_hash()}"

    return KernelSources
