"""Tell Inductor of the lowerings, from the functions that give an operator its shapes: compilers ask them first."""

from __future__ import annotations

import sys


def tell_inductor() -> None:
    """Register the lowerings as soon as Inductor is in use.

    Whoever compiles has imported `compile_fx` by then, and nobody else pays for importing Inductor.
    """
    if "torch._inductor.compile_fx" in sys.modules:
        from mhc_compile.kernels.inductor import install
        from mhc_compile.kernels.inductor_cache import add_sources_to_cache_keys

        install()
        add_sources_to_cache_keys()
