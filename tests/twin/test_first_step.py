"""Who is told that hyper-connections are in no optimizer, and who is not."""

from __future__ import annotations

import copy
import gc
import logging
import pickle
import warnings
import weakref
from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.optim.optimizer import _global_optimizer_post_hooks as HOOKS

import mhc_compile
from mhc_compile.errors import UntrainedParametersWarning
from mhc_compile.twin.first_step import _lookout
from tests.toy_models import WIDTH, Block, Tower

X = torch.randn(2, 3, WIDTH)
SGD = torch.optim.SGD


@pytest.fixture(scope="module")
def made() -> nn.Module:
    return mhc_compile.transform(Tower(), n=2, example_inputs=(X,), modes=("train",))


@pytest.fixture
def twin(made: nn.Module) -> Iterator[nn.Module]:
    """A copy for each test, with nothing of another test's alive."""
    gc.collect()
    yield copy.deepcopy(made)


def own(model: nn.Module) -> list[nn.Parameter]:
    new = set(model.hyper_connections.parameters())
    return [p for p in model.parameters() if p not in new]


def told(model: nn.Module, *optimizers: torch.optim.Optimizer, steps: int = 1) -> list[str]:
    """What is said while a model is trained by these."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(steps):
            model(X).sum().backward()
            for optimizer in optimizers:
                optimizer.step()
    return [str(w.message) for w in seen if w.category is UntrainedParametersWarning]


def test_parameters_of_a_recipe_that_knows_modules_are_named_once(twin: nn.Module) -> None:
    messages = told(twin, SGD(twin.blocks.parameters(), 0.1), steps=3)
    assert len(messages) == 1
    for text in ("no optimizer steps 9", "hyper_connections.blocks__0.phi", "parameter_groups", "SGD"):
        assert text in messages[0]


def test_an_optimizer_that_was_built_before_transform() -> None:
    model = Tower()
    optimizer = SGD(model.parameters(), 0.1)
    assert len(told(mhc_compile.transform(model, n=2, example_inputs=(X,), modes=("train",)), optimizer)) == 1


def test_one_parameter_that_was_missed_is_named_alone(twin: nn.Module) -> None:
    missed = twin.hyper_connections["blocks.1"].phi
    message = told(twin, SGD([p for p in twin.parameters() if p is not missed], 0.1))[0]
    assert "steps 1 hyper-connection parameter that" in message and "(hyper_connections.blocks__1.phi)" in message


def test_behind_a_backend() -> None:
    model, backend = Tower(), mhc_compile.backend(n=2, inner="eager")
    backend.attach(model, (X,), modes=("train",))
    model.compile(backend=backend)
    assert len(told(model, SGD(own(model), 0.1))) == 1


def test_behind_a_backend_that_did_not_compile_the_model() -> None:
    model = Tower()
    mhc_compile.backend(n=2, inner="eager").attach(model, (X,), modes=("train",))
    assert len(told(model, SGD(own(model), 0.1))) == 1  # it is a door, so they get gradients all the same
    torch.compiler.reset()


@pytest.mark.parametrize("again", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_and_pickles_are_looked_at_like_the_first(twin: nn.Module, again) -> None:
    other = again(twin)
    assert len(told(other, SGD(own(other), 0.1))) == 1


def test_a_later_phase_of_training_with_another_optimizer(twin: nn.Module) -> None:
    assert not told(twin, SGD(twin.parameters(), 0.1))
    gc.collect()
    assert len(told(twin, SGD(own(twin), 0.1))) == 1


def test_several_optimizers_that_cover_all_together(twin: nn.Module) -> None:
    matrices = SGD([p for p in twin.parameters() if p.ndim >= 2], 0.1)
    assert not told(twin, matrices, torch.optim.AdamW([p for p in twin.parameters() if p.ndim < 2]), steps=2)


def test_one_optimizer_per_parameter_stepped_inside_the_backward(twin: nn.Module) -> None:
    optimizers = {p: SGD([p], 0.1) for p in twin.parameters()}

    def step(parameter: torch.Tensor) -> None:
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    for parameter in twin.parameters():
        parameter.register_post_accumulate_grad_hook(step)
    assert not told(twin, steps=2)


def test_frozen_hyper_connections_are_meant_to_be_left_out(twin: nn.Module) -> None:
    twin.hyper_connections.requires_grad_(False)
    assert not told(twin, SGD(own(twin), 0.1))


def test_a_model_that_is_only_evaluated_beside_one_that_is_trained(twin: nn.Module) -> None:
    student = Tower()
    optimizer = SGD(student.parameters(), 0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UntrainedParametersWarning)
        with torch.no_grad():
            wanted = twin(X)
        (student(X) - wanted).sum().backward()
        optimizer.step()


def test_gradients_that_flow_through_for_another_model(twin: nn.Module) -> None:
    critic = Tower()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UntrainedParametersWarning)
        critic(twin(X)).sum().backward()
        SGD(critic.parameters(), 0.1).step()


def test_a_head_that_is_trained_on_a_body_that_is_not(twin: nn.Module) -> None:
    assert not told(twin, SGD([twin.head.bias], 0.1))


def test_of_the_last_blocks_alone_the_others_are_not_missed(twin: nn.Module) -> None:
    message = told(twin, SGD(twin.blocks[2].parameters(), 0.1))[0]
    assert "blocks__2.phi" in message and "blocks__0" not in message


def test_adapters_in_a_block_count_as_its_training(twin: nn.Module) -> None:
    for p in own(twin):
        p.requires_grad_(False)
    twin.blocks[0].down.bias = nn.Parameter(torch.zeros(WIDTH))
    assert "blocks__0.phi" in told(twin, SGD([twin.blocks[0].down.bias], 0.1))[0]


def test_sites_of_the_model_itself() -> None:
    twin = mhc_compile.transform(Block(), n=2, example_inputs=(X,), modes=("train",))
    assert list(twin.hyper_connections) == ["down"]
    assert len(told(twin, SGD([twin.up.weight], 0.1))) == 1


def test_a_closure_that_computes_the_gradients_inside_the_step(twin: nn.Module) -> None:
    def closure() -> torch.Tensor:
        loss = twin(X).sum()
        loss.backward()
        return loss

    with pytest.warns(UntrainedParametersWarning):
        SGD(own(twin), 0.1).step(closure)


@pytest.mark.parametrize("whole", [True, False])
def test_the_optimizer_of_accelerate(twin: nn.Module, whole: bool) -> None:
    accelerate = pytest.importorskip("accelerate")
    optimizer = SGD(twin.parameters() if whole else own(twin), 0.1)
    model, optimizer = accelerate.Accelerator(cpu=True).prepare(twin, optimizer)
    assert len(told(model, optimizer, steps=2)) == (0 if whole else 1)


@pytest.mark.parametrize("whole", [True, False])
def test_the_trainer_of_lightning(twin: nn.Module, whole: bool) -> None:
    lightning = pytest.importorskip("lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Lit(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = twin

        def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
            return self.net(batch).square().mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return SGD(self.parameters() if whole else self.net.blocks.parameters(), 0.1)

    quiet = {f"enable_{what}": False for what in ("checkpointing", "progress_bar", "model_summary")}
    trainer = lightning.Trainer(max_steps=2, accelerator="cpu", logger=False, **quiet)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        trainer.fit(Lit(), torch.utils.data.DataLoader(list(X), batch_size=1))
    assert sum(w.category is UntrainedParametersWarning for w in seen) == (0 if whole else 1)


def test_a_compiled_step_works(twin: nn.Module) -> None:
    optimizer = SGD(twin.parameters(), 0.1)
    before = twin.hyper_connections["blocks.0"].phi.clone()
    assert not told(twin, type("Step", (), {"step": staticmethod(torch.compile(optimizer.step, backend="eager"))}))
    assert not torch.equal(before, twin.hyper_connections["blocks.0"].phi)
    torch.compiler.reset()


def test_nothing_is_kept_alive_and_nothing_stays_behind(twin: nn.Module) -> None:
    before, hooks = len(_lookout().watched), len(HOOKS)
    other = copy.deepcopy(twin)
    optimizer = SGD(other.parameters(), 0.1)
    told(other, optimizer)
    gone = weakref.ref(other), weakref.ref(other.hyper_connections), weakref.ref(optimizer)
    assert len(_lookout().watched) == before + 1
    del other, optimizer
    gc.collect()
    assert [one() for one in gone] == [None] * 3
    assert (len(_lookout().watched), len(HOOKS)) == (before, hooks)


def test_a_step_that_has_nothing_to_say_looks_at_no_parameter(twin: nn.Module) -> None:
    optimizer = SGD(twin.parameters(), 0.1)
    told(twin, optimizer)
    twin.hyper_connections.named_parameters = None  # would fail if it were asked again
    assert not told(twin, optimizer, steps=2)


def test_models_are_told_of_apart_and_may_be_copied_inside_a_step(twin: nn.Module) -> None:
    others = [copy.deepcopy(twin) for _ in range(3)]
    optimizer = SGD(others[0].blocks.parameters(), 0.1)
    copies: list[nn.Module] = []
    optimizer.register_step_post_hook(lambda *_: copies.append(copy.deepcopy(twin)))
    assert len(told(others[0], optimizer, steps=2)) == 1 and len(copies) == 2
    assert len(told(others[1], SGD(others[1].blocks.parameters(), 0.1))) == 1
    assert not told(others[2], SGD(others[2].parameters(), 0.1))
