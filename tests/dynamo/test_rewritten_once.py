"""A transformed model, or a part of one, behind the backend: one rewriting, never none and never two."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import mhc_compile
from tests.dynamo.towers import distance, in_advance, inputs, randomise, tower
from tests.toy_models import Block


class TestNested:
    """One rewriting, never none and never two."""

    def test_a_transformed_model_is_not_rewritten_again(self) -> None:
        transformed, x = in_advance(), inputs()
        names = list(transformed.state_dict())
        backend = mhc_compile.backend(inner="eager")
        assert backend.attach(transformed, (x,)) == ()
        compiled = torch.compile(transformed, backend=backend)
        randomise(transformed)
        assert distance(compiled(x), transformed(x)) <= 1e-10
        assert list(transformed.state_dict()) == names
        assert [id(p) for p in backend.parameters()] == [id(p) for p in transformed.hyper_connections.parameters()]

    def test_a_transformed_part_keeps_its_own_and_the_rest_is_rewritten(self) -> None:
        x = inputs()
        model = nn.ModuleDict({"before": Block(), "body": tower(), "after": Block()}).double()
        outer = Chain(model)
        wanted = outer(x)
        outer.parts["body"] = in_advance()
        compiled = torch.compile(outer, backend=mhc_compile.backend(inner="eager"))
        assert distance(compiled(x), wanted) <= 1e-10
        assert list(outer.hyper_connections) == ["parts.before", "parts.after"]
        assert list(outer.parts["body"].hyper_connections) == ["blocks.0", "blocks.1", "blocks.2"]

    def test_transforming_what_is_compiled_is_refused_with_the_order_to_write(self) -> None:
        model, x = tower(), inputs()
        compiled = torch.compile(model, backend=mhc_compile.backend(inner="eager"))
        with pytest.raises(mhc_compile.errors.CaptureError, match="plain module"):
            mhc_compile.transform(compiled, example_inputs=(x,))
        compiled(x)
        with pytest.raises(mhc_compile.errors.AlreadyTransformedError, match=r"del model\.hyper_connections"):
            mhc_compile.transform(model, example_inputs=(x,))


class Chain(nn.Module):
    """Parts one after another."""

    def __init__(self, parts: nn.ModuleDict) -> None:
        super().__init__()
        self.parts = parts

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.parts["after"](self.parts["body"](self.parts["before"](x)))
