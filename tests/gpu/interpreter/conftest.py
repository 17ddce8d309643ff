"""These tests run Triton's interpreter, which is chosen when kernels are imported: they need a process of their own.

`tests/gpu/test_interpreter.py` starts it. Elsewhere they are not collected, but that on a machine with a GPU the steps
are tested there, too, in any process.
"""

import os
from functools import cache
from inspect import getmembers
from pathlib import Path
from types import SimpleNamespace

import torch

ON_DEVICE_TOO = {"test_steps.py"} if torch.cuda.is_available() else set()
FILES = {file.name for file in Path(__file__).parent.glob("test_*.py")}

collect_ignore = [] if os.environ.get("TRITON_INTERPRET") == "1" else sorted(FILES - ON_DEVICE_TOO)

if not collect_ignore:
    from triton.runtime import interpreter

    # At each launch the interpreter looks for the builtins of Triton's language, to replace them while the kernel runs:
    # they are the same each time, and looking for them is a third of all the time.
    interpreter.inspect = SimpleNamespace(**{**vars(interpreter.inspect), "getmembers": cache(getmembers)})
