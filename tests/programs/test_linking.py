"""Generated code with other functions in it."""

from __future__ import annotations

import pytest
import torch
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing

from mhc_compile.kernels.operators import streams
from mhc_compile.programs.linking import substituted
from tests.diagnostics.hand import tower
from tests.toy_models import Block


@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_copy_calls_other_functions_in_every_module_and_the_code_itself_does_not(checkpointed):
    model, x = tower(connection="mhc")
    if checkpointed:
        apply_activation_checkpointing(model, check_fn=lambda module: isinstance(module, Block))
    expected = model(x)
    (program,) = model._mhc.programs
    calls = []

    def boundary(*args, **kwargs):
        calls.append(kwargs["axis"])
        return streams.boundary(*args, **kwargs)

    code = substituted(program.function, {streams.boundary: boundary})
    (found,) = code(model, *program.constants, x)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert len(calls) == 2  # four sites: an entry boundary, two of these, and the leave
    model(x)
    assert len(calls) == 2
