"""Operators of PyTorch that stand for a whole layer, in evaluation without gradients, and hide its residual adds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import mhc_compile
from tests.moved import X, moved
from tests.toy_models import WIDTH


def layer(**options: bool) -> nn.Module:
    return nn.TransformerEncoderLayer(WIDTH, 2, 16, dropout=0.0, batch_first=True, **options)


class Masked(nn.Module):
    """Encoder layers that are called one by one, with padding."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layer(norm_first=True) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        padding = torch.arange(x.shape[1]).expand(x.shape[:2]) > 3
        for each in self.layers:
            x = each(x, src_key_padding_mask=padding)
        return x


class Attending(nn.Module):
    """Attention of PyTorch, which has a fused operator too, in a block of the model's own."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.norm, self.mlp = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return x + self.mlp(self.norm(x))


MODELS = {
    "encoder": lambda: nn.TransformerEncoder(layer(), 2, enable_nested_tensor=False),
    "layers with padding": Masked,
    "attention": Attending,
}


@pytest.mark.parametrize("name", MODELS)
def test_calls_without_gradients_compute_what_calls_with_gradients_do(name):
    t = moved(MODELS[name]().eval())
    with_gradients = t(X)
    with torch.no_grad():
        assert_close(t(X[:2]), with_gradients[:2], atol=1e-5, rtol=1e-5)
    plain = mhc_compile.revert(t)
    assert not torch.allclose(with_gradients, plain(X), atol=1e-3)


def test_a_frozen_model_has_the_sites_of_another():
    model = MODELS["encoder"]().eval().requires_grad_(False)
    assert len(mhc_compile.plan(model, example_inputs=(X,)).sites) == 4
