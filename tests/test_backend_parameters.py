"""The new parameters of a backend: when they appear, who owns them, how they are saved and loaded."""

from __future__ import annotations

import copy
import gc
import pickle
import warnings
import weakref
from typing import ClassVar

import pytest
import torch
from torch import nn

import mhc_compile
from mhc_compile.errors import (
    CaptureError,
    CheckpointMismatchError,
    EarlyOptimizerWarning,
    MissingInputsError,
    NoParametersYetError,
    NotAModuleError,
    NothingToTransformWarning,
    OtherParametersError,
    PatternError,
    PatternWarning,
    SecondModelError,
    UnusedParametersWarning,
)
from tests.test_backend import distance, in_advance, inputs, randomise, tower
from tests.test_graph_breaks import Loop, made
from tests.toy_models import WIDTH, Block, Normalised


@pytest.fixture(autouse=True)
def _fresh_dynamo() -> None:
    torch.compiler.reset()


class Skipped(Block):
    """A block that Dynamo is told to leave alone."""

    forward = torch.compiler.disable(Block.forward)


TRAIN = ("train",)  # most models here are called in one mode, and are traced in that


def eager(**options: object) -> mhc_compile.Backend:
    return mhc_compile.backend(inner="eager", **options)


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


def fail_on_ours() -> None:
    """PyTorch has warnings of its own behind a graph break."""
    for category in (UnusedParametersWarning, PatternWarning):
        warnings.simplefilter("error", category)


class TestUntaken:
    """Loaded values and globs that no site takes."""

    STRANGE: ClassVar = {"hyper_connections.blocks__9.phi": torch.zeros(3)}

    def state(self) -> dict[str, torch.Tensor]:
        return {**in_advance().state_dict(), **self.STRANGE}

    def test_behind_attach_values_are_refused_before_anything_is_loaded(self) -> None:
        model = tower()
        backend = eager()
        backend.attach(model, (inputs(),), modes=TRAIN)
        randomise(model)
        before = {name: value.clone() for name, value in backend.state_dict().items()}
        with pytest.raises(
            OtherParametersError, match=r"1 value that no site takes \(hyper_connections\.blocks__9\.phi"
        ):
            backend.load_state_dict(self.state())
        assert all(torch.equal(value, before[name]) for name, value in backend.state_dict().items())

    def test_attach_refuses_those_loaded_before_it(self) -> None:
        model = tower()
        backend = eager()
        backend.load_state_dict(self.state())
        with pytest.raises(OtherParametersError, match="blocks__9"):
            backend.attach(model, (inputs(),), modes=TRAIN)
        assert "hyper_connections" not in model._modules

    def test_the_first_call_of_one_graph_warns(self) -> None:
        backend = eager()
        backend.load_state_dict(self.state())
        with pytest.warns(UnusedParametersWarning, match="blocks__9"):
            torch.compile(tower(), backend=backend)(inputs())

    def test_so_does_the_second_call_of_several_and_the_state_dict(self) -> None:
        model = made(Loop)
        backend = eager()
        compiled = torch.compile(model, backend=backend)
        backend.load_state_dict(self.state())
        with warnings.catch_warnings():
            fail_on_ours()
            compiled(inputs())
        with pytest.warns(UnusedParametersWarning, match="blocks__9"):
            compiled(inputs())
        with pytest.warns(UnusedParametersWarning, match="blocks__9"):
            backend.state_dict()

    def test_what_all_sites_take_is_no_reason_to_warn(self) -> None:
        for kind in (tower, lambda: made(Loop)):
            torch.compiler.reset()
            model, x = kind(), inputs()
            backend = eager(include=["blocks.*"])
            backend.load_state_dict({n: v for n, v in self.state().items() if n not in self.STRANGE})
            compiled = torch.compile(model, backend=backend)
            with warnings.catch_warnings():
                fail_on_ours()
                compiled(x)
                compiled(x)
                backend.state_dict()

    def test_globs_that_match_nothing_are_warned_of_with_the_words_of_transform(self) -> None:
        with pytest.raises(PatternError) as refused:
            mhc_compile.transform(tower(), example_inputs=(inputs(),), exclude=["zz*"])
        with pytest.raises(PatternError) as attached:
            eager(exclude=["zz*"]).attach(tower(), (inputs(),), modes=TRAIN)
        assert str(attached.value) == str(refused.value)
        with pytest.warns(PatternWarning) as seen:
            torch.compile(tower(), backend=eager(exclude=["zz*"]))(inputs())
        assert str(refused.value) in str(seen[0].message)

    def test_behind_breaks_they_are_once_the_first_call_is_over(self) -> None:
        compiled = torch.compile(made(Loop), backend=eager(exclude=["zz*"]))
        compiled(inputs())
        with pytest.warns(PatternWarning, match="zz"):
            compiled(inputs())

    def test_a_wrong_shape_stays_an_error_until_it_is_put_right(self) -> None:
        backend = eager()
        good = in_advance().state_dict()
        backend.load_state_dict({**good, "hyper_connections.blocks__0.alpha": torch.ones(7)})
        compiled = torch.compile(tower(), backend=backend)
        for _ in range(2):
            with pytest.raises(OtherParametersError, match=r"shape \[7\]"):
                compiled(inputs())
        backend.load_state_dict(good)
        compiled(inputs())


class TestReplaced:
    """`hyper_connections` deleted or replaced behind a compiled graph."""

    def test_deleted_parameters_are_made_anew(self) -> None:
        model, x = tower(), inputs()
        compiled = torch.compile(model, backend=eager())
        fresh = compiled(x)
        randomise(model)
        kept = model.hyper_connections
        assert distance(compiled(x), fresh) > 1e-3
        del model.hyper_connections
        assert distance(compiled(x), fresh) <= 1e-12
        assert list(model.hyper_connections) == list(kept) and model.hyper_connections is not kept
        compiled(x).square().sum().backward()
        assert all(p.grad is not None for p in model.hyper_connections.parameters())
        assert all(p.grad is None for p in kept.parameters())

    def test_those_put_in_their_place_are_used(self) -> None:
        model, x = tower(), inputs()
        compiled = torch.compile(model, backend=eager())
        before = compiled(x)
        model.hyper_connections = copy.deepcopy(model.hyper_connections)
        randomise(model)
        assert distance(compiled(x), before) > 1e-3


class TestLifetime:
    def test_neither_attach_nor_a_call_keeps_a_model_alive(self) -> None:
        x = inputs()
        for use in (lambda b, m: b.attach(m, (x,), modes=TRAIN), lambda b, m: torch.compile(m, backend=b)(x)):
            torch.compiler.reset()
            model = tower()
            backend, seen = eager(), weakref.ref(model)
            use(backend, model)
            parameter = weakref.ref(next(backend.parameters()))
            del model
            gc.collect()
            assert seen() is None and parameter() is None
            torch.compile(tower(), backend=backend)(x)  # the place is free

    def test_a_copy_and_a_pickle_of_a_backend_are_backends_without_a_model(self) -> None:
        kept, x = tower(), inputs()
        backend = eager(n=2)
        torch.compile(kept, backend=backend)(x)
        for twin in (copy.copy(backend), copy.deepcopy(backend), pickle.loads(pickle.dumps(backend))):
            other = tower()
            assert distance(torch.compile(other, backend=twin)(x), tower()(x)) <= 1e-10
            assert twin.config == backend.config and twin.inner == backend.inner
            assert not {*map(id, twin.parameters())} & {*map(id, backend.parameters())}


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
