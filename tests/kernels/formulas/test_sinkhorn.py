"""The custom operators against the plain formulas."""

import pytest
import torch

from mhc_compile.kernels.formulas import reference, sinkhorn


def logits_of(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(0)).requires_grad_()


@pytest.mark.parametrize("n", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sinkhorn_is_bit_equal_to_the_reference(n: int, dtype: torch.dtype) -> None:
    logits = logits_of(n, n, 63, 1, dtype=dtype)
    assert torch.equal(sinkhorn.sinkhorn(logits), reference.sinkhorn(logits))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 8])
def test_sinkhorn_has_the_gradient_of_the_reference(n: int) -> None:
    logits = logits_of(n, n, 63, dtype=torch.float64)
    weight = torch.randn(n, n, 63, dtype=torch.float64)
    (ours,) = torch.autograd.grad((sinkhorn.sinkhorn(logits) * weight).sum(), logits)
    (theirs,) = torch.autograd.grad((reference.sinkhorn(logits) * weight).sum(), logits)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_sinkhorn_passes_gradcheck() -> None:
    assert torch.autograd.gradcheck(sinkhorn.sinkhorn, (logits_of(3, 3, 2, dtype=torch.float64),))


@pytest.mark.parametrize("iterations", [1, 2, 20])
def test_sinkhorn_runs_as_many_iterations_as_asked(iterations: int) -> None:
    logits = logits_of(4, 4, 5)
    expected = reference.sinkhorn(logits, iterations=iterations)
    assert torch.equal(sinkhorn.sinkhorn(logits, iterations=iterations), expected)


def test_sinkhorn_passes_opcheck() -> None:
    for logits in (logits_of(4, 4, 7), logits_of(4, 4, 0), logits_of(4, 4, 3, 5).detach().transpose(2, 3)):
        torch.library.opcheck(torch.ops.mhc.sinkhorn.default, (logits, 3))
    grad, logits = torch.randn(4, 4, 7), logits_of(4, 4, 7).detach()
    torch.library.opcheck(torch.ops.mhc.sinkhorn_backward.default, (grad, logits, 3))


def test_sinkhorn_takes_transposed_and_expanded_logits() -> None:
    logits = logits_of(4, 4, 1, 3).detach()
    for view in (logits.transpose(0, 1), logits.expand(4, 4, 5, 3)):
        assert torch.equal(sinkhorn.sinkhorn(view), reference.sinkhorn(view.contiguous()))


def test_sinkhorn_keeps_the_logits_and_nothing_else_for_the_backward() -> None:
    kept: list[torch.Tensor] = []
    logits = logits_of(4, 4, 63)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t):
        sinkhorn.sinkhorn(logits)
    assert [t.shape for t in kept] == [logits.shape]


def test_sinkhorn_is_deterministic_forward_and_backward() -> None:
    logits = logits_of(4, 4, 1000)
    first, second = (torch.autograd.grad(sinkhorn.sinkhorn(logits)[0].square().sum(), logits)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_sinkhorn_does_not_hide_nan() -> None:
    logits = logits_of(4, 4, 2).detach()
    logits[0, 0, 0] = float("nan")
    R = sinkhorn.sinkhorn(logits)
    assert R[..., 0].isnan().all()
    assert R[..., 1].isfinite().all()


def test_sinkhorn_stays_finite_for_huge_logits() -> None:
    logits = logits_of(4, 4, 63)
    R = sinkhorn.sinkhorn(1e4 * logits)
    torch.testing.assert_close(R.sum(1), torch.ones(4, 63))
    (grad,) = torch.autograd.grad(R.square().sum(), logits)
    assert R.isfinite().all()
    assert grad.isfinite().all()


def test_sinkhorn_is_one_node_for_a_compiler() -> None:
    graphs: list[torch.fx.GraphModule] = []

    def backend(gm: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> torch.fx.GraphModule:
        graphs.append(gm)
        return gm

    torch.compile(lambda logits: sinkhorn.sinkhorn(logits), backend=backend, fullgraph=True)(logits_of(4, 4, 7))
    assert sum(node.op == "call_function" for node in graphs[0].graph.nodes) == 1


def test_sinkhorn_passes_gradgradcheck() -> None:
    assert torch.autograd.gradgradcheck(sinkhorn.sinkhorn, (logits_of(3, 3, 2, dtype=torch.float64),))


def test_sinkhorn_works_under_torch_func() -> None:
    logits = logits_of(3, 3, 2, dtype=torch.float64).detach()
    plain = torch.func.grad(lambda t: reference.sinkhorn(t).square().sum())(logits)
    torch.testing.assert_close(torch.func.grad(lambda t: sinkhorn.sinkhorn(t).square().sum())(logits), plain)
