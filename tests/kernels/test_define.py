"""Operators as this package defines them."""

import subprocess
import sys

TWICE = """
import sys
for _ in range(2):
    for name in [name for name in sys.modules if name.startswith("mhc_compile")]:
        del sys.modules[name]
    from mhc_compile.kernels.formulas.sinkhorn import sinkhorn
import torch
logits = torch.zeros(2, 2, 3, requires_grad=True)
sinkhorn(logits).square().sum().backward()
print(torch.allclose(logits.grad, torch.zeros(()), atol=1e-6))
"""


def test_a_package_that_is_imported_anew_defines_its_operators_anew() -> None:
    """As tools do that take modules out of `sys.modules`, and notebooks that load them again."""
    out = subprocess.run([sys.executable, "-c", TWICE], capture_output=True, text=True)
    assert out.stdout.strip() == "True", out.stderr[-1000:]
