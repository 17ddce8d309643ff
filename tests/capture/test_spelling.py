"""Names that are words of Python."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import mhc_compile
from mhc_compile.errors import KeywordNameError
from tests.toy_models import WIDTH, Block

X = torch.randn(2, 3, WIDTH)


def model(name: str) -> nn.Module:
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleDict({name: Block()})

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.parts[name](x)

    return Parts()


@pytest.mark.parametrize("name", ["in", "lambda", "None"])
def test_transform_and_the_backend_refuse_them_and_say_what_to_write(name: str) -> None:
    message = rf"parts\.{name}\..*: '{name}' is a word of Python's own.*for example '{name}_'"
    with pytest.raises(KeywordNameError, match=message):
        mhc_compile.transform(model(name), example_inputs=(X,))
    with pytest.raises(KeywordNameError, match=message):
        mhc_compile.backend(inner="eager").attach(model(name), (X,))


@pytest.mark.parametrize("name", ["in_", "input", "match", "print"])
def test_other_names_are_none_of_them(name: str) -> None:
    parts = model(name)
    torch.testing.assert_close(mhc_compile.transform(parts, example_inputs=(X,))(X), parts(X))
