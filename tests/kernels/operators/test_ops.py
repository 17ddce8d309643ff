"""The fused steps as operators: schema, shapes, autograd, compilers."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

from mhc_compile.kernels.formulas import packed
from mhc_compile.kernels.operators import ops, streams
from mhc_compile.kernels.operators.implementations import step_dtype, why_not_covered
from tests.kernels.site_chain import noisy, site_parameters
from tests.kernels.step_calls import GATED, SINGLE_STEPS, as_tuple, forward_arguments
from tests.kernels.step_calls import STEPS as FOUR_STEPS
from tests.kernels.step_inputs import LAYOUTS, step_inputs
from tests.tables import also

SMALLEST = ((2, 1, 3), 2)  # a derivative is looked at for each pair of numbers


def arguments(
    name: str, n: int, layout: Any, equal: bool, dtype: torch.dtype = torch.float32, connection: str = "mhc"
) -> tuple:
    """Positional arguments of `torch.ops.mhc.<name>`."""
    given = forward_arguments(name, n, layout, equal=equal, dtype=dtype, connection=connection)
    return tuple(value.requires_grad_() if isinstance(value, Tensor) else value for value in given)


STEPS = (*FOUR_STEPS, *SINGLE_STEPS)


@pytest.mark.parametrize("layout", ["last", *also(*(layout for layout in LAYOUTS if layout != "last"))])
@pytest.mark.parametrize("equal", [False, True], ids=["streams", "entry"])
@pytest.mark.parametrize("name", STEPS)
def test_the_operators_pass_opcheck(name: str, equal: bool, layout: str) -> None:
    args = arguments(name, 4, layout, equal)
    torch.library.opcheck(getattr(torch.ops.mhc, name).default, args)


@pytest.mark.parametrize("name", STEPS)
def test_the_backward_operators_pass_opcheck(name: str) -> None:
    args = [a.detach() if isinstance(a, torch.Tensor) else a for a in arguments(name, 4, "last", False)]
    outputs = getattr(torch.ops.mhc, name)(*args)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    tensors = [a for a in args if isinstance(a, torch.Tensor)]
    rest = [a for a in args if not isinstance(a, torch.Tensor)]
    if name in GATED:
        *outputs, stat = outputs
        tensors.append(stat)
    grads = [torch.randn_like(o) for o in outputs]
    torch.library.opcheck(getattr(torch.ops.mhc, f"{name}_backward").default, (*grads, *tensors, *rest))


@pytest.mark.parametrize(
    ("name", "connection", "equal"),  # an entry differs by the sum over streams: a step with a write, one without
    [
        *((name, "mhc", False) for name in STEPS),
        ("boundary", "hc", False),
        *(("gate", "mhc", True), ("write", "mhc", True)),
        *also(("boundary", "mhc", True), ("leave", "mhc", True)),
        *also(*product(("boundary",), ("identity:eps=0.01", "mhc-lite", "kronecker", "circulant"), (False, True))),
        *also(("boundary", "hc", True)),
    ],
)
def test_the_operators_pass_gradcheck_twice(name: str, connection: str, equal: bool) -> None:
    args = arguments(name, 2, SMALLEST, equal, torch.float64, connection)
    op = getattr(torch.ops.mhc, name)

    def differentiable(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        out = op(*tensors, *(a for a in args if not isinstance(a, torch.Tensor)))
        return out if isinstance(out, torch.Tensor) else out[:-1]

    tensors = tuple(a for a in args if isinstance(a, torch.Tensor))
    assert torch.autograd.gradcheck(differentiable, tensors)
    assert torch.autograd.gradgradcheck(differentiable, tensors, atol=1e-4)


MIXED = [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32), (torch.float64, torch.bfloat16)]
PAIRS = {*product((torch.float32, torch.bfloat16, torch.float16, torch.float64), (torch.float32, torch.bfloat16))}


# A kernel is compiled for each.
@pytest.mark.parametrize(("dtype", "branch"), [*MIXED, *also(*sorted(PAIRS - {*MIXED}, key=str))])
def test_the_streams_have_the_dtype_of_the_sum(dtype: torch.dtype, branch: torch.dtype) -> None:
    data = step_inputs(4, "last", dtype=dtype)
    following, u, mix, stat = ops.boundary(data.X, data.y.to(branch), data.mix, data.params, n=4, axis=data.axis)
    assert following.dtype == u.dtype == torch.promote_types(dtype, branch)
    assert mix.dtype == stat.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_the_plain_formula_serves_torch_func() -> None:
    data = step_inputs(3, "last", dtype=torch.float64)
    grad = torch.func.grad(lambda X: ops.leave(X, data.y, data.mix, n=3, axis=2, scale=1.0).square().sum())(data.X)
    X = data.X.clone().requires_grad_()
    (expected,) = torch.autograd.grad(packed.leave(X, data.y, data.mix, 3, 2, 1.0).square().sum(), X)
    torch.testing.assert_close(grad, expected)


def test_the_plain_formula_serves_forward_mode() -> None:
    X, y, mix, *rest = forward_arguments("write", 3, "tiny", dtype=torch.float64)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(X, torch.ones_like(X))
        tangent = forward_ad.unpack_dual(ops.write(dual, y, mix, n=rest[0], axis=rest[1])).tangent
    expected = packed.write(torch.ones_like(X), torch.zeros_like(y), mix, *rest)
    torch.testing.assert_close(tangent, expected)


PRECISIONS = [(torch.float32, torch.float64), (torch.float64, torch.float32), (torch.bfloat16, torch.float64)]


# One stream has no kernels to compile.
@pytest.mark.parametrize(
    ("n", "streams", "branch"),
    [*((1, *pair) for pair in PRECISIONS), (3, *PRECISIONS[0]), *also(*((3, *pair) for pair in PRECISIONS[1:]))],
)
def test_the_formulas_take_streams_and_branch_of_two_precisions(
    n: int, streams: torch.dtype, branch: torch.dtype
) -> None:
    for step in ("write", "boundary", "leave"):
        X, y, *others = forward_arguments(step, n, "tiny", dtype=streams)
        arguments = [X, y.to(branch), *others]
        tensors = [a.requires_grad_() for a in arguments if isinstance(a, Tensor)]
        (first, *_) = as_tuple(getattr(torch.ops.mhc, step)(*arguments))
        assert first.dtype == torch.float64
        exact = [a.double() if isinstance(a, Tensor) else a for a in arguments]
        torch.testing.assert_close(first, as_tuple(getattr(packed, step)(*exact))[0], rtol=1e-6, atol=1e-6)
        grads = torch.autograd.grad(first.square().sum(), tensors, allow_unused=True)
        assert all(g is None or g.dtype == t.dtype for g, t in zip(grads, tensors, strict=True))


def test_triton_leaves_a_branch_of_64_bits_to_the_formulas() -> None:
    assert "float64" in str(why_not_covered("cuda", step_dtype(torch.float32, torch.float64), 4))
    assert why_not_covered("cuda", step_dtype(torch.float32, torch.bfloat16), 4) is None


def test_nothing_but_streams_branch_and_statistics_is_kept_for_the_backward() -> None:
    data = step_inputs(4, "last")
    kept: list[torch.Tensor] = []
    leaves = [t.requires_grad_() for t in (data.X, data.y, data.mix, *data.params)]
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t):
        *_, stat = ops.boundary(*leaves[:3], leaves[3:], n=4, axis=2)
    assert {t.data_ptr() for t in kept} == {t.data_ptr() for t in (*leaves, stat)}


@pytest.mark.parametrize("name", STEPS)
def test_without_gradients_a_kernel_is_called_past_the_dispatcher_unless_somebody_records(name, monkeypatch) -> None:
    args = arguments(name, 4, "last", False)
    wanted = as_tuple(getattr(torch.ops.mhc, name)(*args))
    seen: list[str] = []

    class Recording(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    args = tuple(value.detach() if isinstance(value, Tensor) else value for value in args)
    with torch.no_grad(), Recording():
        ops.call(name, *args)
    assert f"mhc.{name}.default" in seen
    monkeypatch.setattr(torch.ops.mhc, name, None)  # nobody may ask for it
    with torch.no_grad():
        found = as_tuple(ops.call(name, *args))
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    with pytest.raises(TypeError, match="not callable"):
        ops.call(name, *args)  # with gradients


@pytest.mark.parametrize("connection", ["hc-static", "gated:rank=2"])
def test_sites_without_operators_pass_gradcheck_twice(connection: str) -> None:
    torch.manual_seed(0)
    values = noisy(site_parameters(connection, 2, 3))
    X, y = torch.randn(2, 2, 1, 3, dtype=torch.float64), torch.randn(2, 1, 3, dtype=torch.float64)

    def site(X: Tensor, y: Tensor, *params: Tensor) -> tuple[Tensor, Tensor]:
        pre, post, R = streams.coefficients(X, params, connection=connection, axis=2)
        return streams.read(X, pre), streams.write(X, y, post, R)

    tensors = tuple(t.detach().requires_grad_() for t in (X, y, *values))
    assert torch.autograd.gradcheck(site, tensors)
    assert torch.autograd.gradgradcheck(site, tensors, atol=1e-4)
