"""Hyper-connections among the modules that PEFT trains and saves: it puts copies in their place, and switches."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import mhc_compile
from mhc_compile.dynamo.new_parameters import connections_of
from mhc_compile.twin.hyper_connections import HyperConnections
from tests.copies import copied
from tests.toy_models import WIDTH, Tower

peft = pytest.importorskip("peft")
X = torch.randn(2, 3, WIDTH)


@pytest.fixture(autouse=True)
def _fresh_dynamo() -> None:
    torch.compiler.reset()


def moved(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for p in connections_of(model).parameters():
            p.add_(0.3 * torch.randn_like(p))
    return model


@copied
def tower() -> nn.Module:
    return mhc_compile.transform(Tower(), n=2, example_inputs=(X,), modes=("train",))


def transformed() -> nn.Module:
    return moved(tower())


def compiled() -> nn.Module:
    model, backend = Tower(), mhc_compile.backend(n=2, inner="eager")
    backend.attach(model, (X,), modes=("train",))
    model.compile(backend=backend)
    return moved(model)


def adapted(model: nn.Module, target: str = "unused") -> nn.Module:
    """The adapters themselves lie in a module that computes nothing: hyper-connections alone make a difference."""
    return peft.get_peft_model(model, peft.LoraConfig(target_modules=[target], modules_to_save=["hyper_connections"]))


def train(model: nn.Module) -> torch.Tensor:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.05)
    for _ in range(2):
        optimizer.zero_grad()
        model(X).square().sum().backward()
        optimizer.step()
    return model(X)


def copies(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if "hyper_connections.modules_to_save" in name}


@pytest.mark.parametrize("make", [transformed, compiled])
def test_the_copies_are_trained_and_the_adapter_switches_them(make) -> None:
    model = make()
    before = model(X)
    model = adapted(model, "up")
    assert_close(model(X), before)
    train(model)
    assert copies(model) and all(p.requires_grad and p.grad.abs().sum() > 0 for p in copies(model).values())


@pytest.mark.parametrize("make", [transformed, compiled])
def test_switched_off_and_on_again(make) -> None:
    model = make()
    before = model(X)
    model = adapted(model)
    after = train(model)
    assert (after - before).abs().max() > 1e-2
    with model.disable_adapter():
        assert_close(model(X), before)
    assert_close(model(X), after)


@pytest.mark.parametrize("make", [transformed, compiled])
def test_two_adapters_have_hyper_connections_of_their_own(make) -> None:
    model = make()
    before = model(X)
    model = adapted(model)
    after = train(model)
    model.add_adapter("other", model.peft_config["default"])
    model.set_adapter("other")
    assert_close(model(X), before)
    train(model)
    model.set_adapter("default")
    assert_close(model(X), after)


@pytest.mark.parametrize("make", [transformed, compiled])
def test_merged_and_unloaded_they_take_the_place_of_the_others(make) -> None:
    model = adapted(make())
    after = train(model)
    plain = model.merge_and_unload()
    assert_close(plain(X), after)
    assert type(plain.hyper_connections) is HyperConnections and plain.hyper_connections["blocks.0"].phi is not None


def test_the_file_of_an_adapter_holds_what_was_trained(tmp_path) -> None:
    model = transformed()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    model = adapted(model)
    after = train(model)
    model.save_pretrained(tmp_path)
    base = tower()
    base.load_state_dict(state)
    assert_close(peft.PeftModel.from_pretrained(base, tmp_path)(X), after)


def test_an_adapter_of_other_sites_is_refused(tmp_path) -> None:
    adapted(transformed()).save_pretrained(tmp_path)
    other = mhc_compile.transform(Tower(), n=2, example_inputs=(X,), modes=("eval",), exclude=["blocks.1"])
    with pytest.raises(mhc_compile.errors.CheckpointMismatchError, match=r"hyper-connections at blocks__1, which this"):
        peft.PeftModel.from_pretrained(other, tmp_path)
    with pytest.raises(ValueError, match=r"blocks\.7|No modules were targeted"):
        adapted(transformed(), "blocks.7")


def test_a_copy_of_the_whole_is_apart_and_copies_no_module_twice() -> None:
    model = adapted(transformed())
    after = train(model)
    other = copy.deepcopy(model)
    assert_close(other(X), after)
    with torch.no_grad():
        for p in copies(other).values():
            p.add_(0.5)
    assert (other(X) - after).abs().max() > 1e-2
    assert_close(model(X), after)


def test_a_copy_of_hyper_connections_takes_no_blocks_along() -> None:
    model = transformed()
    memo: dict = {}
    copy.deepcopy(model.hyper_connections, memo)
    assert not any(id(module) in memo for module in model.blocks.modules())


def test_traces_made_under_an_adapter_serve_the_others() -> None:
    model = adapted(transformed())
    after = train(model)
    longer = torch.randn(3, 7, WIDTH, dtype=torch.float64)
    wanted = model.double()(longer)  # a new trace, of modules that show the copies
    with model.disable_adapter():
        assert (model(longer) - wanted).abs().max() > 1e-2
    assert_close(model(longer), wanted)
    assert_close(model(X.double()), after.double(), atol=1e-4, rtol=1e-4)


def test_what_looks_at_hyper_connections_looks_at_those_in_use() -> None:
    model = tower()
    base = adapted(model).get_base_model()
    train(base)
    with pytest.raises(mhc_compile.errors.NotPreservingError, match=r"hyper_connections\['blocks\.0'\]"):
        mhc_compile.revert(base, strict=True)
    mhc_compile.reset_parameters(base)
    mhc_compile.revert(base, strict=True)
    assert connections_of(base) is base.hyper_connections.itself is not base.hyper_connections


@pytest.mark.parametrize("train_them", [True, False])
def test_an_optimizer_for_adapters_alone(train_them: bool) -> None:
    model = transformed()
    if train_them:  # PEFT freezes what is not named in modules_to_save
        model = adapted(model, "up")
        chosen = [p for name, p in model.named_parameters() if "lora_" in name]
        model(X).sum().backward()
        with pytest.warns(mhc_compile.errors.UntrainedParametersWarning, match=r"blocks__0\.phi"):
            torch.optim.SGD(chosen, 0.1).step()
        return
    model = peft.get_peft_model(model, peft.LoraConfig(target_modules=["up"]))
    model(X).sum().backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1).step()
    assert not any(p.requires_grad for p in model.hyper_connections.parameters())
