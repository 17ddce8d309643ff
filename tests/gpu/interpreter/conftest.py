"""These tests run Triton's interpreter, which is chosen when kernels are imported: they need a process of their own.

`tests/gpu/test_interpreter.py` starts it. Elsewhere they are not collected, but that on a machine with a GPU the steps
are tested there, too, in any process.
"""

import os
from pathlib import Path

import torch

ON_DEVICE_TOO = {"test_steps.py"} if torch.cuda.is_available() else set()
FILES = {file.name for file in Path(__file__).parent.glob("test_*.py")}

collect_ignore = [] if os.environ.get("TRITON_INTERPRET") == "1" else sorted(FILES - ON_DEVICE_TOO)
