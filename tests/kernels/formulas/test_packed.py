"""The fused steps in plain PyTorch against the formulas of `reference.py`, and their gradients."""

import pytest
import torch

from mhc_compile.kernels.formulas import packed
from mhc_compile.kernels.formulas.connections import parameter_shapes
from mhc_compile.kernels.formulas.lookup import find, operands_of
from mhc_compile.kernels.formulas.packed import FORWARD_STEPS
from mhc_compile.kernels.formulas.steps import tensors_of
from mhc_compile.kernels.operators import single_pass, streams
from tests.kernels.site_chain import takes
from tests.kernels.step_calls import as_tuple, forward_arguments
from tests.kernels.step_inputs import LAYOUTS, step_inputs

FUSED = ("mhc", "mhc-lite", "kronecker", "circulant", "identity", "identity:magnitude=1.5,eps=0.01")
CASES = [
    *(("mhc", n) for n in (1, 2, 3, 4, 8)),
    *((name, n) for name in FUSED[1:] for n in (2, 3, 4, 8) if takes(name, n)),
]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("connection", "n"), CASES)
@pytest.mark.parametrize("equal", [False, True], ids=["streams", "entry"])
def test_the_steps_are_the_formulas(connection: str, n: int, layout: str, equal: bool) -> None:
    data = step_inputs(n, layout, equal=equal, dtype=torch.float64, connection=connection)
    X, y, params = data.X, data.y, data.params
    full = X.expand(n, *X.shape[1:])
    u, mix, stat = packed.gate(X, *params, n, data.axis, connection)
    row = find(connection, max(n, 2))  # of one stream, too, the steps say what the coefficients are
    pre, post, R = row.coefficients(full, params, n=n, axis=data.axis)
    following = streams.reference.write(full, y, post, R)
    close = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(u, streams.read(full, pre), **close)
    torch.testing.assert_close(packed.write(X, y, mix, n, data.axis), following, **close)
    torch.testing.assert_close(packed.leave(X, y, mix, n, data.axis, 1 / n), following.mean(0), **close)
    fused = packed.boundary(X, y, mix, *params, n, data.axis, connection)
    torch.testing.assert_close(fused[0], following, **close)
    torch.testing.assert_close(fused[1:], packed.gate(following, *params, n, data.axis, connection), **close)
    single = packed.single_gate(X, *params, n, data.axis, connection)
    torch.testing.assert_close(single_pass.read_weights(single[0], full, axis=data.axis), pre, **close)
    torch.testing.assert_close(single[1:], (mix, stat), **close)
    weights = single_pass.read_weights(data.pre, following, axis=data.axis)
    fused = packed.single_boundary(X, y, mix, data.pre, *params, n, data.axis, connection)
    torch.testing.assert_close(fused[:2], (following, streams.read(following, weights)), **close)
    torch.testing.assert_close(fused[2:], packed.single_gate(following, *params, n, data.axis, connection), **close)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("n", [2, 3, 4, 8])
@pytest.mark.parametrize("equal", [False, True], ids=["streams", "entry"])
def test_those_of_hyper_connections_are_the_formulas_with_the_gradient_of_every_parameter(
    n: int, layout: str, equal: bool
) -> None:
    """Streams have means and scales of their own, which a norm of each takes away."""
    data = step_inputs(n, layout, equal=equal, dtype=torch.float64)
    shapes = parameter_shapes("hc", n, data.X.shape[data.axis + 1])
    params = [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in shapes.values()]
    X = (data.X * torch.arange(1, 1 + len(data.X)).reshape(-1, *[1] * data.y.ndim) + 3).requires_grad_()
    u, mix, _ = packed.gate(X, *operands_of("hc", params, n), n, data.axis, "hc")
    full = X.expand(n, *X.shape[1:])
    pre, post, R = find("hc", n).coefficients(full, params, n=n, axis=data.axis)
    following, expected = packed.write(X, data.y, mix, n, data.axis), streams.reference.write(full, data.y, post, R)
    close = {"rtol": 1e-10, "atol": 1e-11}
    torch.testing.assert_close((u, following), (streams.read(full, pre), expected), **close)
    found, wanted = (
        torch.autograd.grad((out.sin().sum() + read.cos().sum()), [X, *params])
        for out, read in ((following, u), (expected, streams.read(full, pre)))
    )
    torch.testing.assert_close(found, wanted, **close)


@pytest.mark.parametrize(
    ("connection", "n", "layout"),
    [
        *(("mhc", 3, layout) for layout in LAYOUTS),
        *((name, 4, "tiny") for name in (*FUSED[1:], "hc")),
        ("kronecker", 8, "tiny"),
    ],
)
@pytest.mark.parametrize("equal", [False, True], ids=["streams", "entry"])
def test_every_spelled_out_gradient_is_that_of_autograd(connection: str, n: int, layout: str, equal: bool) -> None:
    for name in FORWARD_STEPS:
        arguments = forward_arguments(name, n, layout, equal=equal, dtype=torch.float64, connection=connection)
        tensors = [a.detach().requires_grad_() for a in arguments if isinstance(a, torch.Tensor)]
        constants = arguments[len(tensors) :]
        outputs = as_tuple(getattr(packed, name)(*tensors, *constants))
        stat = [outputs[-1].detach()] if "phi" in tensors_of(name) else []
        outputs = outputs[:-1] if stat else outputs
        weights = [torch.randn_like(t) for t in outputs]
        expected = torch.autograd.grad(outputs, tensors, weights)
        found = getattr(packed, f"{name}_backward")(*weights, *(t.detach() for t in tensors), *stat, *constants)
        for i, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11, msg=lambda m, c=(name, i): f"{c}: {m}")
