"""What waits until a compiler is in use: it is told from the functions that give an operator its shapes, asked first.

Whoever compiles has imported `compile_fx` by then, and nobody else pays for importing Inductor.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

_WAITING: list[Callable[[], None]] = []
_COMPILER = "torch._inductor.compile_fx"


def when_compiled(function: Callable[[], None]) -> None:
    """Have `function` called at each question for shapes while Inductor is in use; it does its work once."""
    _WAITING.append(function)


def tell_inductor() -> None:
    """Call what waits for Inductor, if it is in use."""
    if _COMPILER in sys.modules:
        for function in _WAITING:
            function()
