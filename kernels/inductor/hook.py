"""Registers the lowerings with Inductor as soon as it is in use; imported by the package, so it imports nothing."""

from __future__ import annotations

from mhc_compile.kernels.late import when_compiled


def install_all() -> None:
    """The lowerings, and the sources of kernels as part of Inductor's cache keys."""
    from mhc_compile.kernels.inductor.cache_keys import add_sources_to_cache_keys  # late
    from mhc_compile.kernels.inductor.lowerings import install  # late, for both import Inductor

    install()
    add_sources_to_cache_keys()


when_compiled(install_all)
