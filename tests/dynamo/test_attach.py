"""`attach`: the new parameters exist before the first call, and an optimizer built too early is reported."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

from mhc_compile.errors import (
    CaptureError,
    EarlyOptimizerWarning,
    MissingInputsError,
    NotAModuleError,
    NothingToTransformWarning,
    OtherParametersError,
    PatternError,
    SecondModelError,
)
from tests.dynamo.towers import TRAIN, distance, eager, inputs, randomise, tower
from tests.toy_models import WIDTH, Block, Normalised


class Skipped(Block):
    """A block that Dynamo is told to leave alone."""

    forward = torch.compiler.disable(Block.forward)


class TestAttach:
    def test_parameters_exist_before_the_first_call_and_stay(self) -> None:
        model, x = tower(), inputs()
        backend = eager()
        backend.attach(model, (x,))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        made = list(backend.parameters())
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            torch.compile(model, backend=backend)(x).square().sum().backward()
        optimizer.step()
        assert [id(p) for p in backend.parameters()] == [id(p) for p in made]
        assert all(p.grad is not None for p in made)

    def test_the_model_is_left_as_it_was_otherwise(self) -> None:
        model = Normalised().double()
        before, x = copy.deepcopy(model.state_dict()), torch.randn(4, WIDTH, dtype=torch.float64)
        torch.manual_seed(3)
        eager().attach(model, (x,))
        drawn = torch.rand(1)
        torch.manual_seed(3)
        assert torch.equal(drawn, torch.rand(1)), "the random generator moved on"
        assert model.training
        for name, value in before.items():
            assert torch.equal(model.state_dict()[name], value), name

    def test_it_costs_no_recompile_later(self) -> None:
        model, x = tower(), inputs()
        backend = eager()
        backend.attach(model, (x,))
        compiled = torch.compile(model, backend=backend)
        compiled(x)
        compiled(x)
        assert len(backend.records) == 1

    def test_a_compiled_model_may_be_given(self) -> None:
        model, x = tower(), inputs()
        backend = eager()
        compiled = torch.compile(model, backend=backend)
        backend.attach(compiled, (x,))
        assert len(model.hyper_connections) == 3

    def test_attaching_again_keeps_the_parameters(self) -> None:
        model, x = tower(), inputs()
        eager().attach(model, (x,), modes=TRAIN)
        made = [id(p) for p in model.hyper_connections.parameters()]
        eager().attach(model, (x,), modes=TRAIN)
        assert [id(p) for p in model.hyper_connections.parameters()] == made

    def test_a_copy_has_its_own(self) -> None:
        model, x = tower(), inputs()
        eager().attach(model, (x,), modes=TRAIN)
        twin = copy.deepcopy(model)
        randomise(twin)
        wanted = model(x)
        assert distance(torch.compile(model, backend=eager())(x), wanted) <= 1e-10
        assert distance(torch.compile(twin, backend=eager())(x), wanted) > 1e-3

    def test_other_options_than_those_it_was_made_with_are_refused(self) -> None:
        model, x = tower(), inputs()
        eager(n=4).attach(model, (x,), modes=TRAIN)
        with pytest.raises(OtherParametersError, match=r"del model\.hyper_connections"):
            torch.compile(model, backend=eager(n=2))(x)

    def test_parameters_of_another_readout_are_refused(self) -> None:
        model, x = tower(), inputs()
        eager(reduce="learned").attach(model, (x,), modes=TRAIN)
        with pytest.raises(OtherParametersError, match=r"reduce='learned'.*reduce='mean'"):
            torch.compile(model, backend=eager())(x)
        with pytest.raises(OtherParametersError, match="reduce='learned'"):
            eager().attach(model, (x,), modes=TRAIN)

    def test_wrong_arguments_are_errors_with_advice(self) -> None:
        with pytest.raises(NotAModuleError):
            eager().attach(nn.Linear, (inputs(),))
        with pytest.raises(MissingInputsError):
            eager().attach(tower())
        with pytest.raises(PatternError, match=r"the sites are blocks\.0, blocks\.1"):
            eager(exclude=["nothing.*"]).attach(tower(), (inputs(),), modes=TRAIN)
        with pytest.warns(NothingToTransformWarning):
            eager().attach(nn.Linear(3, 3), (torch.ones(2, 3),))

    def test_two_models_are_refused(self) -> None:
        backend = eager()
        kept = tower()
        backend.attach(kept, (inputs(),), modes=TRAIN)
        with pytest.raises(SecondModelError):
            backend.attach(tower(), (inputs(),), modes=TRAIN)

    def test_a_model_dynamo_skips_is_said(self) -> None:
        with pytest.raises(CaptureError, match="no graph"):
            eager().attach(Skipped().double(), (inputs(),))


class TestEarlyOptimizer:
    def test_one_built_before_the_first_call_is_reported(self) -> None:
        model = tower()
        optimizer = torch.optim.Adam(model.parameters())
        with pytest.warns(EarlyOptimizerWarning, match=r"Adam .* none of the 9 new ones.*backend.attach"):
            torch.compile(model, backend=eager())(inputs())
        assert optimizer.param_groups

    def test_so_is_one_built_before_attach(self) -> None:
        model = tower()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with pytest.warns(EarlyOptimizerWarning, match="SGD"):
            eager().attach(model, (inputs(),), modes=TRAIN)
        assert optimizer.param_groups

    def test_one_of_another_model_is_not(self) -> None:
        optimizer = torch.optim.SGD(tower().parameters(), lr=0.1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            torch.compile(tower(), backend=eager())(inputs())
        assert optimizer.param_groups
