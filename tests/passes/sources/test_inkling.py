"""`attention` against the layers of the pinned Transformers: a stack of Inkling2 layers, weights copied over.

The layers' own code keeps the blocks and computes what is read. Their attention and experts are stand-ins, for which of
them a branch holds is not the question.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.inkling2.modeling_inkling2 import (
    Inkling2BlockAttentionResidual,
    Inkling2RMSNorm,
    Inkling2SlidingDecoderLayer,
)

import mhc_compile
from mhc_compile.kernels.operators.sources import read_sources

C, LAYERS = 6, 5
X = torch.randn(2, 3, C, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
TOLERANCE = {"rtol": 0, "atol": 1e-6}


@pytest.fixture(autouse=True)
def in_fp64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those layers compute in fp32 whatever they are given."""
    monkeypatch.setattr(torch.Tensor, "float", lambda self: self)


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.f = nn.Linear(C, C)

    def forward(self, hidden_states: Tensor, **unused: Any) -> tuple[Tensor, None]:
        return torch.tanh(self.f(hidden_states)) + hidden_states.mean(1, keepdim=True), None


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.f = nn.Linear(C, C)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return torch.sin(self.f(hidden_states))


class Straight(nn.Module):
    def forward(self, hidden_states: Tensor, **unused: Any) -> Tensor:
        return hidden_states


class Layer(Inkling2SlidingDecoderLayer):
    """A released layer but for what its branches compute."""

    def __init__(self, index: int, blocks_of: int) -> None:
        nn.Module.__init__(self)
        config = SimpleNamespace(hidden_size=C)
        self.is_block_boundary = index % blocks_of == 0
        self.attention_input = Inkling2BlockAttentionResidual(config) if index else None
        self.mlp_input = Inkling2BlockAttentionResidual(config)
        self.self_attn, self.mlp = Mixer(), Experts()
        self.input_layernorm, self.post_attention_layernorm = Inkling2RMSNorm(C), Inkling2RMSNorm(C)
        self.post_attention_convolution = self.post_mlp_convolution = Straight()


class Released(nn.Module):
    """What `Inkling2TextModel.forward` does with its layers."""

    def __init__(self, blocks_of: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(i, blocks_of) for i in range(LAYERS))
        self.final_input = Inkling2BlockAttentionResidual(SimpleNamespace(hidden_size=C))
        self.norm = Inkling2RMSNorm(C)

    def forward(self, hidden: Tensor) -> Tensor:
        blocks = hidden.new_zeros(*hidden.shape[:-1], 0, C)
        for layer in self.layers:
            new = layer(hidden, blocks)
            if layer.is_block_boundary:
                blocks = torch.cat([blocks, hidden.unsqueeze(-2)], dim=-2)
            hidden = new
        return self.norm(self.final_input(blocks, hidden)[0])


class PlainLayer(nn.Module):
    """The same layer with residual adds."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attn, self.mlp = Mixer(), Experts()
        self.input_layernorm, self.post_attention_layernorm = Inkling2RMSNorm(C), Inkling2RMSNorm(C)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(hidden_states=self.input_layernorm(x))[0]
        return x + self.mlp(self.post_attention_layernorm(x))


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(PlainLayer() for _ in range(LAYERS))
        self.norm = Inkling2RMSNorm(C)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


def queries(released: Released) -> dict[str, nn.Parameter]:
    """Those of the release by our keys."""
    found = {"layers.4.mlp.f.readout": released.final_input.query}
    for i, layer in enumerate(released.layers):
        found[f"layers.{i}.mlp.f"] = layer.mlp_input.query
        if layer.attention_input is not None:
            found[f"layers.{i}.self_attn.f"] = layer.attention_input.query
    return found


@pytest.mark.parametrize("blocks_of", [1, 2])
def test_a_stack_of_layers_is_the_released_one_forward_and_backward(blocks_of: int):
    torch.manual_seed(0)
    released = Released(blocks_of).double()
    for name, parameter in released.named_parameters():
        if "query" in name:
            nn.init.normal_(parameter)
    plain = Plain().double()
    plain.load_state_dict({k: v for k, v in released.state_dict().items() if k in plain.state_dict()})
    made = mhc_compile.transform(
        plain, connection=f"attention:layers={blocks_of}", example_inputs=(X,), modes=("train",)
    )
    theirs = queries(released)
    assert set(made.hyper_connections) == set(theirs)
    for key, query in theirs.items():
        made.hyper_connections[key].query.data.copy_(query.detach())
    inputs, weights, found = [X.clone().requires_grad_(), X.clone().requires_grad_()], torch.randn_like(X), []
    for model, x in zip((made, released), inputs, strict=True):
        found.append(model(x))
        (found[-1] * weights).sum().backward()
    torch.testing.assert_close(*found, **TOLERANCE)
    torch.testing.assert_close(*(x.grad for x in inputs), **TOLERANCE)
    for key, query in theirs.items():
        assert query.grad.abs().max() > 1e-4
        torch.testing.assert_close(made.hyper_connections[key].query.grad, query.grad, **TOLERANCE)
    own = dict(released.named_parameters())
    for name, parameter in made.named_parameters():
        if not name.startswith("hyper_connections"):
            torch.testing.assert_close(parameter.grad, own[name].grad, **TOLERANCE)


def test_a_read_is_the_released_layer_for_any_query():
    values = [torch.randn_like(X).requires_grad_() for _ in range(4)]
    layer = Inkling2BlockAttentionResidual(SimpleNamespace(hidden_size=C)).double()
    nn.init.normal_(layer.query)
    query = layer.query.detach().clone().requires_grad_()
    theirs = layer(torch.stack(values[:-1], -2), values[-1])[0]
    ours = read_sources(values, [query], connection="attention", axis=-1)
    torch.testing.assert_close(ours, theirs, **TOLERANCE)
    gradients = [torch.autograd.grad((u * X).sum(), [*values, q]) for u, q in ((ours, query), (theirs, layer.query))]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, **TOLERANCE)
