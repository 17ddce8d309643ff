"""Exported programs without the operators of this package, for whatever runs them.

exported = torch.export.export(model, (x,), dynamic_shapes=...)
torch.onnx.export(mhc_compile.export.decompose(exported), dynamo=True).save("model.onnx")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mhc_compile.kernels.operators.decompositions import decompositions

if TYPE_CHECKING:
    from torch.export import ExportedProgram


def decompose(program: ExportedProgram) -> ExportedProgram:
    """The program with the formulas of `mhc` in place of its fused operators; every other operator stays as it is.

    The result can be saved, loaded and run where this package is not installed, and converted to ONNX. It computes the
    same to rounding, under the same names, and keeps open sizes open.

    Args:
        program: what `torch.export.export` made of a transformed model. It is not changed.
    """
    return program.run_decompositions(decompositions())
