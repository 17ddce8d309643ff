"""The new parameters of a backend are saved and loaded: before the first call, after it, and what is refused."""

from __future__ import annotations

import copy
import gc
import pickle

import pytest
import torch

import mhc_compile
from mhc_compile.errors import (
    CheckpointMismatchError,
    NoParametersYetError,
    OtherParametersError,
)
from tests.dynamo.towers import TRAIN, distance, eager, in_advance, inputs, randomise, tower


class TestCheckpoints:
    def test_one_of_transform_loads_and_back(self) -> None:
        model, x = tower(), inputs()
        transformed = in_advance()
        randomise(transformed)
        backend = eager()
        backend.attach(model, (x,), modes=TRAIN)
        assert str(model.load_state_dict(transformed.state_dict())) == "<All keys matched successfully>"
        compiled = torch.compile(model, backend=backend)
        assert distance(compiled(x), transformed(x)) <= 1e-10
        randomise(model)
        transformed.load_state_dict(model.state_dict())
        assert distance(compiled(x), transformed(x)) <= 1e-10

    def test_loaded_before_the_first_call_they_are_there_at_it(self) -> None:
        model, x = tower(), inputs()
        transformed = in_advance()
        randomise(transformed)
        backend = eager()
        backend.load_state_dict(transformed.state_dict())
        assert distance(torch.compile(model, backend=backend)(x), transformed(x)) <= 1e-10
        state = backend.state_dict()
        assert set(state) == {n for n in transformed.state_dict() if n.startswith("hyper_connections.")}

    def test_loaded_after_it_they_are_used_at_once(self) -> None:
        model, x = tower(), inputs()
        backend = eager()
        compiled = torch.compile(model, backend=backend)
        compiled(x)
        named = model.hyper_connections.named_parameters()
        state = {f"hyper_connections.{n}": torch.randn_like(p) * 0.3 for n, p in named}
        before = compiled(x)
        backend.load_state_dict(state)
        assert distance(compiled(x), before) > 1e-3

    def test_replaced_parameters_are_used(self) -> None:
        model, x = tower(), inputs()
        compiled = torch.compile(model, backend=eager())
        before = compiled(x)
        child = model.hyper_connections
        state = {n: torch.randn_like(v) * 0.3 for n, v in child.named_parameters()}
        child.load_state_dict({**child.state_dict(), **state}, assign=True)
        assert distance(compiled(x), before) > 1e-3

    def test_those_of_another_n_are_refused(self) -> None:
        state = mhc_compile.transform(tower(), n=2, example_inputs=(inputs(),), modes=TRAIN).state_dict()
        with pytest.raises(CheckpointMismatchError, match=r"with n=2 .*with n=4"):
            eager().load_state_dict(state)
        model = tower()
        eager(n=4).attach(model, (inputs(),), modes=TRAIN)
        with pytest.raises(CheckpointMismatchError, match=r"with n=2 .*with n=4"):
            model.load_state_dict(state)

    def test_a_header_that_does_not_fit_is_refused_before_anything_is_loaded(self) -> None:
        model, x = tower(), inputs()
        torch.compile(model, backend=eager())(x)
        for target in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            before = {name: value.clone() for name, value in target.state_dict().items()}
            other = mhc_compile.transform(tower(), n=2, example_inputs=(x,), modes=TRAIN)
            state = {
                name: torch.zeros_like(v) if v.is_floating_point() else v for name, v in other.state_dict().items()
            }
            with pytest.raises(CheckpointMismatchError):
                target.load_state_dict(state)
            assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())

    def test_the_check_follows_the_parameters(self) -> None:
        model, x = tower(), inputs()
        eager(n=4).attach(model, (x,), modes=TRAIN)
        del model.hyper_connections
        transformed = mhc_compile.transform(model, n=2, example_inputs=(x,), modes=TRAIN)
        del model
        gc.collect()
        transformed.load_state_dict(transformed.state_dict())

    def test_the_names_of_a_compiled_model_are_understood(self) -> None:
        model, x = tower(), inputs()
        first, second = eager(), eager()
        first.attach(model, (x,), modes=TRAIN)
        randomise(model)
        state = torch.compile(model, backend=first).state_dict()
        assert all(name.startswith("_orig_mod.") for name in state)
        other = tower()
        second.attach(other, (x,), modes=TRAIN)
        second.load_state_dict(state)
        pairs = zip(first.parameters(), second.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)

    @pytest.mark.parametrize("state", [{}, {"weight": torch.zeros(1)}], ids=["nothing", "others"])
    def test_a_state_without_them_is_refused(self, state: dict[str, torch.Tensor]) -> None:
        with pytest.raises(OtherParametersError, match="holds no hyper_connections"):
            eager().load_state_dict(state)

    def test_what_was_refused_works_once_it_is_put_right(self) -> None:
        model, x = tower(), inputs()
        mhc_compile.backend(n=2, inner="eager").attach(model, (x,), modes=TRAIN)
        compiled = torch.compile(model, backend=mhc_compile.backend(n=4, inner="eager"))
        with pytest.raises(OtherParametersError, match=r"del model\.hyper_connections"):
            compiled(x)
        del model.hyper_connections
        assert distance(compiled(x), tower()(x)) < 1e-6
        assert len(list(model.hyper_connections.parameters())) > 0

    def test_a_wrong_shape_is_refused(self) -> None:
        backend = eager()
        backend.load_state_dict({"hyper_connections.blocks__0.alpha": torch.ones(7)})
        with pytest.raises(OtherParametersError, match=r"alpha has shape \[7\], and \[3\] is needed"):
            torch.compile(tower(), backend=backend)(inputs())

    def test_before_there_are_any_it_is_said_what_to_write(self) -> None:
        for ask in (lambda b: list(b.parameters()), lambda b: b.state_dict()):
            with pytest.raises(NoParametersYetError, match=r"backend\.attach"):
                ask(eager())
