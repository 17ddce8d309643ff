"""Parts that are compiled before `transform` or after, and other tools that copy modules or derive from classes."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import mhc_compile
from mhc_compile.errors import CaptureError
from tests.moved import Net, X, move, moved
from tests.toy_models import WIDTH, Block


class Activated(nn.Module):
    """Its activation is a compiled function."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.act = nn.Linear(WIDTH, WIDTH), torch.compile(torch.relu, backend="eager")

    def forward(self, x: Tensor) -> Tensor:
        return x + self.act(self.up(x))


class ActivatedNet(Net):
    block = Activated


def wrapped() -> nn.Module:
    model = Net()
    model.blocks = nn.ModuleList(torch.compile(Block(), backend="eager") for _ in range(2))
    return model


def with_a_compiled_layer() -> nn.Module:
    model = Net()
    model.blocks[0].up = torch.compile(model.blocks[0].up, backend="eager")
    return model


def compiled_in_place() -> nn.Module:
    model = Net()
    for block in model.blocks:
        block.compile(backend="eager")
    return model


BEFORE = {
    "wrapped": wrapped,
    "a layer": with_a_compiled_layer,
    "in place": compiled_in_place,
    "a function": ActivatedNet,
}


@pytest.mark.parametrize("how", BEFORE)
def test_what_was_compiled_before_is_refused_with_the_order_to_write_or_runs(how):
    """Never a result that is right for one size and wrong for another, and never a copy that fails."""
    try:
        t = moved(BEFORE[how]())
    except CaptureError as error:
        assert "torch.compile" in str(error) and how in ("wrapped", "a layer")
        return
    assert how in ("in place", "a function")
    assert_close(t(X[:1]), t(X)[:1])
    assert_close(copy.deepcopy(t)(X), t(X))
    assert not torch.allclose(t(X), mhc_compile.revert(t)(X), atol=1e-3)


def test_regions_that_accelerate_compiles_have_the_hyper_connections():
    utils = pytest.importorskip("accelerate.utils")
    t = moved(Net().eval())
    regions = utils.compile_regions(t, backend="eager")
    assert_close(regions(X), t(X))


def compile_in_place(t: nn.Module) -> nn.Module:
    for block in t.blocks:
        block.compile(backend="eager")
    return t


def compile_wrapped(t: nn.Module) -> nn.Module:
    for name, block in t.blocks.named_children():
        t.blocks.set_submodule(name, torch.compile(block, backend="eager"))
    return t


@pytest.mark.parametrize("compiled", [compile_in_place, compile_wrapped])
def test_blocks_compiled_one_by_one_compute_what_they_did(compiled):
    t = moved(Net().eval())
    before = t(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error", mhc_compile.errors.StreamsCutWarning)
        assert_close(compiled(t)(X), before)


def test_replicas_are_what_data_parallel_makes_of_any_module():
    """It makes an empty object of the class, and copies attributes."""
    t = moved(Net())
    replicas = {name: module._replicate_for_data_parallel() for name, module in t.named_modules()}
    block = replicas["blocks.0"]
    assert isinstance(block, Block) and not block._parameters
    assert block._modules is not t.blocks[0]._modules  # filled with replicas, it must not be that of the model


def replica_of(t: nn.Module) -> nn.Module:
    """What `torch.nn.parallel.replicate` makes of a model for one more device."""
    replicas = {name: module._replicate_for_data_parallel() for name, module in t.named_modules()}
    for name, module in t.named_modules():
        replicas[name]._former_parameters = {key: p * 1.0 for key, p in module._parameters.items()}
        vars(replicas[name]).update(replicas[name]._former_parameters)
        below = {key: replicas[f"{name}.{key}".lstrip(".")] for key in module._modules}
        replicas[name]._modules.update(below)
    return replicas[""]


@pytest.mark.parametrize("first", ["replica", "model"])
def test_the_first_call_of_a_kind_may_be_one_of_a_replica(first):
    t = moved(Net().eval()).train()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        calls = {"replica": replica_of(t), "model": t}
        results = {name: calls[name](X) for name in sorted(calls, key=lambda name: name != first)}
    expected = move(mhc_compile.transform(Net(), example_inputs=(X,), modes=("train",)))
    expected.load_state_dict(t.state_dict())
    assert_close(results, dict.fromkeys(results, expected(X)))
    results["replica"].sum().backward()
    assert all(p.grad is not None for p in t.parameters())


def test_an_empty_object_of_a_class_and_a_shallow_copy_are_modules_of_the_class():
    t = moved(Net())
    for module in (t, t.blocks[0], t.blocks[0].up):
        kind = type(module)
        assert type(kind.__new__(kind)) is kind
        assert copy.copy(module).training == module.training
    with pytest.warns(mhc_compile.errors.DetachedModuleWarning):
        assert_close(copy.copy(t.blocks[0])(X), mhc_compile.revert(t).blocks[0](X))
