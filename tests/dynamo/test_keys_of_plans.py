"""Keys behind `mhc_compile.backend`: a graph traced later takes those its weights have already."""

from __future__ import annotations

import torch
from torch import nn

from mhc_compile import backend
from tests.passes.layers import tokens

X = tokens(dtype=torch.float32)


class Block(nn.Module):
    """Attention-like and MLP-like layers of one module, the first of which may be left out."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.up, self.down = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: torch.Tensor, both: bool = True) -> torch.Tensor:
        if both:
            x = x + self.k(self.q(x).relu())
        return x + self.down(self.up(x).relu())


def test_a_layer_left_out_of_a_compiled_model_takes_its_parameters_with_it():
    torch.compiler.reset()
    model = nn.ModuleDict({"block": Block()})
    compiled = torch.compile(model["block"], backend=backend(n=4, inner="eager"))
    plain = Block()
    plain.load_state_dict(model["block"].state_dict(), strict=False)
    compiled(X)
    keys = list(model["block"].hyper_connections)
    with torch.no_grad():
        model["block"].hyper_connections[keys[0]].bias.add_(1.0)
    assert torch.allclose(compiled(X, both=False), plain(X, both=False), atol=1e-5)
    assert list(model["block"].hyper_connections) == keys
    with torch.no_grad():
        model["block"].hyper_connections[keys[1]].bias.add_(1.0)
    assert not torch.allclose(compiled(X, both=False), plain(X, both=False), atol=1e-2)
