"""`torch.compile(model, backend="mhc")`: options, recompiles, two models of a class."""

from __future__ import annotations

import pytest
import torch

from mhc_compile.errors import InvalidOptionError
from tests.dynamo.towers import distance, inputs, randomise, tower
from tests.toy_models import WIDTH


class TestByName:
    """`backend="mhc"`: nothing but the model remembers anything."""

    def test_options_reach_the_rewrite_and_the_inner_backend(self) -> None:
        model, x = tower(), inputs()
        wanted = model(x)
        compiled = torch.compile(model, backend="mhc", options={"n": 3, "inner": "eager"})
        assert distance(compiled(x), wanted) <= 1e-10
        assert model.hyper_connections["blocks.0"].phi.size(0) == 3 * WIDTH

    def test_recompiles_find_the_parameters_again(self) -> None:
        model = tower()
        compiled = torch.compile(model, backend="mhc", options={"inner": "eager"})
        compiled(inputs())
        made = [id(p) for p in model.hyper_connections.parameters()]
        compiled(inputs(4, 6))
        model.eval()
        compiled(inputs())
        assert [id(p) for p in model.hyper_connections.parameters()] == made

    def test_two_models_of_a_class_have_their_own_parameters(self) -> None:
        first, second, x = tower(), tower(), inputs()
        for model in (first, second):
            torch.compile(model, backend="mhc", options={"inner": "eager"})(x)
        assert list(first.hyper_connections) == list(second.hyper_connections)
        mine, theirs = ({id(p) for p in m.hyper_connections.parameters()} for m in (first, second))
        assert not mine & theirs
        randomise(second)
        again = torch.compile(first, backend="mhc", options={"inner": "eager"})(x)
        assert distance(again, tower()(x)) <= 1e-10, "the first model got the parameters of the second"

    def test_wrong_options_are_errors_of_this_package(self) -> None:
        with pytest.raises(InvalidOptionError, match="unknown option m"):
            torch.compile(tower(), backend="mhc", options={"m": 3})(inputs())
