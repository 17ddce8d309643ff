"""Our sites against the layers of the pinned Transformers, weights copied over: forward and every gradient, in fp64.

Those layers compute in fp32 whatever they are given (`.float()`); for the comparison that is taken out.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from benchmarks.contestants import DeepSeekSite
from mhc_compile.kernels.formulas.connections import readout_eps
from mhc_compile.kernels.formulas.lookup import find, manifold_of
from mhc_compile.kernels.operators import ops, streams
from tests.kernels.test_deepseek_formulation import transposed_columns
from tests.tables import also

n, B, S, C, RANK = 4, 2, 3, 6, 5
TOLERANCE = {"rtol": 0, "atol": 1e-6}
Result = tuple[Tensor, Tensor]  # what the branch reads, the next streams


@pytest.fixture(autouse=True)
def in_fp64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "float", lambda self: self)


def drawn(*shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_() for shape in shapes]


def copied(module: nn.Module, **values: Tensor) -> nn.Module:
    """The module with these tensors, which stay part of the graph, in place of its parameters."""
    for path, value in values.items():
        *parents, name = path.split("__")
        owner = module
        for parent in parents:
            owner = getattr(owner, parent)
        del owner._parameters[name]
        setattr(owner, name, value)
    return module


def apart(X: Tensor, y: Tensor, params: list[Tensor], connection: str) -> Result:
    """By separate formulas."""
    pre, post, R = streams.coefficients(X, params, connection=connection, axis=2)
    return streams.read(X, pre), streams.write(X, y, post, R)


def fused(X: Tensor, y: Tensor, params: list[Tensor], connection: str) -> Result:
    """By the fused steps."""
    u, mix, _ = ops.gate(X, params, n=n, axis=2, connection=connection)
    return u, ops.write(X, y, mix, n=n, axis=2)


def assert_same(ours: Result, theirs: Result, inputs: list[Tensor]) -> None:
    weights = drawn((B, S, C), (n, B, S, C))
    gradients = []
    for found in (ours, theirs):
        loss = sum((w.detach() * value).sum() for w, value in zip(weights, found, strict=True))
        gradients.append(torch.autograd.grad(loss, inputs))
    for one, other in zip((*ours, *gradients[0]), (*theirs, *gradients[1]), strict=True):
        torch.testing.assert_close(one, other, **TOLERANCE)
        assert one.abs().max() > 1e-3


@pytest.mark.parametrize("site", [apart, fused])
def test_mhc_is_the_layer_of_deepseek_v4(site):
    X, y, phi, bias = drawn((n, B, S, C), (B, S, C), (n * C, n * n + 2 * n), (n * n + 2 * n,))
    alpha = torch.tensor([0.5, 1.0, 1.5], dtype=torch.float64, requires_grad=True)
    layer = DeepSeekSite(n, C)
    layer.connection.hc_eps = 0.0  # an eps inside of Sinkhorn is not part of the paper
    copied(layer.connection, fn=transposed_columns(phi, n).t(), base=transposed_columns(bias, n), scale=alpha)
    u, state = layer.read(layer.enter(X))
    R = state[2]
    assert (R - R.mT).abs().max() > 0.1
    theirs = u, layer.write(state, y).movedim(2, 0)
    assert_same(site(X, y, [phi, alpha, bias], "mhc"), theirs, [X, y, phi, alpha, bias])


@pytest.mark.parametrize(
    ("site", "magnitude", "eps"),
    [
        *((apart, *options) for options in ((2.0, 0.0), (2.0, 1e-6), (1.5, 0.01))),
        (fused, 1.5, 0.01),  # a kernel is compiled for each
        *also((fused, 2.0, 0.0), (fused, 2.0, 1e-6)),
    ],
)
def test_identity_is_the_layer_of_hy_v4(site, magnitude, eps):
    from transformers.models.hy_v4.modeling_hy_v4 import HYV4HyperConnection

    X, y, phi, bias = drawn((n, B, S, C), (B, S, C), (n * C, 2 * n), (2 * n,))
    alpha = torch.tensor([0.5, 1.5], dtype=torch.float64, requires_grad=True)
    layer = HYV4HyperConnection(
        SimpleNamespace(hc_mult=n, hc_eps=eps, rms_norm_eps=1e-6, hidden_size=C, hc_magnitude=magnitude)
    )
    copied(layer, fn=phi.t(), base=bias, scale=alpha)
    hidden = X.movedim(0, 2)
    post, u = layer(hidden)
    theirs = u, (post.unsqueeze(-1) * y.unsqueeze(-2) + hidden).movedim(2, 0)  # as HYV4DecoderLayer writes
    connection = f"identity:magnitude={magnitude},eps={eps}"
    assert manifold_of(connection).eps == eps
    assert_same(site(X, y, [phi, alpha, bias], connection), theirs, [X, y, phi, alpha, bias])


@pytest.mark.parametrize("eps", [1e-6, 0.01])
def test_its_learned_readout_is_the_head_of_hy_v4(eps):
    from transformers.models.hy_v4.modeling_hy_v4 import HYV4HyperHead

    X, phi, bias, alpha = drawn((n, B, S, C), (n * C, n), (n,), (1,))
    head = HYV4HyperHead(SimpleNamespace(hc_mult=n, hc_eps=eps, rms_norm_eps=1e-6, hidden_size=C))
    copied(head, hc_fn=phi.t(), hc_base=bias, hc_scale=alpha)
    ours = streams.reduce(X, [phi, alpha, bias], how="learned", axis=2, eps=readout_eps(f"identity:eps={eps}"))
    torch.testing.assert_close(ours, head(X.movedim(0, 2)), **TOLERANCE)


def test_gated_is_the_layer_of_qwen4_exp():
    from transformers.models.qwen4_exp.modeling_qwen4_exp import Qwen4ExpTextGatedResidual

    connection = f"gated:rank={RANK}"
    shapes = find(connection, n).shapes(n, C)
    X, y, *params = drawn((n, B, S, C), (B, S, C), *shapes.values())
    norm, down, up, inject = params
    layer = Qwen4ExpTextGatedResidual(SimpleNamespace(hc_count=n, hidden_size=C, hc_lowrank=RANK, rms_norm_eps=1e-6))
    copied(
        layer,
        hc_norm__weight=norm - 1,
        input_mix_weight_down__weight=down.t(),
        input_mix_weight_up__weight=up.t(),
        block_inject_weight__weight=inject.t(),
    )
    u, wide, post = layer(X.movedim(0, 2).flatten(2))
    theirs = u, (wide.unflatten(-1, (n, C)) + post.unsqueeze(-1) * y.unsqueeze(-2)).movedim(2, 0)
    assert_same(apart(X, y, params, connection), theirs, [X, y, *params])
