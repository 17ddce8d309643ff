"""The fused steps in plain PyTorch against the formulas of `reference.py`, and their gradients."""

import pytest
import torch

from mhc_compile.kernels.formulas import packed
from mhc_compile.kernels.operators import streams
from tests.kernels.step_inputs import LAYOUTS, step_inputs


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("n", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("equal", [False, True], ids=["streams", "entry"])
def test_the_steps_are_the_formulas(n: int, layout: str, equal: bool) -> None:
    data = step_inputs(n, layout, equal=equal, dtype=torch.float64)
    X, y, params = data.X, data.y, data.params
    full = X.expand(n, *X.shape[1:])
    u, mix, _ = packed.gate(X, *params, n, data.axis)
    pre, post, R = streams.reference.manifold_coefficients(
        full, params, n=n, axis=data.axis, matrix=streams.find("mhc", 2).coefficients.keywords["matrix"]
    )
    following = streams.reference.write(full, y, post, R)
    close = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(u, streams.read(full, pre), **close)
    torch.testing.assert_close(packed.write(X, y, mix, n, data.axis), following, **close)
    torch.testing.assert_close(packed.leave(X, y, mix, n, data.axis, 1 / n), following.mean(0), **close)
    fused = packed.boundary(X, y, mix, *params, n, data.axis)
    torch.testing.assert_close(fused[0], following, **close)
    torch.testing.assert_close(fused[1:], packed.gate(following, *params, n, data.axis), **close)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("equal", [False, True], ids=["streams", "entry"])
def test_every_spelled_out_gradient_is_that_of_autograd(layout: str, equal: bool) -> None:
    n = 3
    data = step_inputs(n, layout, equal=equal, dtype=torch.float64)
    X, y, mix, *params = (t.detach().requires_grad_() for t in (data.X, data.y, data.mix, *data.params))
    axis = data.axis
    cases = {
        "gate": (packed.gate, packed.gate_backward, (X, *params), (n, axis)),
        "write": (packed.write, packed.write_backward, (X, y, mix), (n, axis)),
        "boundary": (packed.boundary, packed.boundary_backward, (X, y, mix, *params), (n, axis)),
        "leave": (packed.leave, packed.leave_backward, (X, y, mix), (n, axis, 1 / n)),
    }
    for name, (forward, backward, tensors, constants) in cases.items():
        outputs = forward(*tensors, *constants)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        stat = [outputs[-1].detach()] if name in ("gate", "boundary") else []
        outputs = outputs[:-1] if stat else outputs
        weights = [torch.randn_like(t) for t in outputs]
        expected = torch.autograd.grad(outputs, tensors, weights)
        found = backward(*weights, *(t.detach() for t in tensors), *stat, *constants)
        for i, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11, msg=lambda m, c=(name, i): f"{c}: {m}")
