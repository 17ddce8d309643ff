"""Hyper-connections among the modules that PEFT trains and saves: it puts copies in their place, and switches."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import mhc_compile
from mhc_compile.dynamo.new_parameters import connections_of
from mhc_compile.errors import CheckpointMismatchError, NotPreservingWarning, SavedApartWarning
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


def test_a_model_that_had_its_adapter_before_saves_the_hyper_connections_beside_it(tmp_path):
    def made() -> nn.Module:
        torch.manual_seed(0)
        model = peft.get_peft_model(Tower(), peft.LoraConfig(target_modules=["up"]))
        return mhc_compile.transform(model, n=2, example_inputs=(X,), modes=("train",)).train()

    first, second = moved(made()), made()
    with pytest.warns(SavedApartWarning, match=r"load_state_dict\(mhc_compile\.checkpoint\.load"):
        first.save_pretrained(tmp_path)
    assert {"adapter_model.safetensors", "hyper_connections.safetensors"} <= {file.name for file in tmp_path.iterdir()}
    assert not torch.allclose(second(X), first(X))
    second.load_state_dict(mhc_compile.checkpoint.load(tmp_path / "hyper_connections.safetensors"), strict=False)
    assert_close(second(X), first(X))

    saved = first(X)
    moved(first)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # that an adapter alone is no checkpoint of the plain model is no news
        first.load_adapter(
            tmp_path, "default", is_trainable=True
        )  # as trainers do that resume, or want their best model
    assert_close(first(X), saved)
    moved(first)
    with pytest.warns(SavedApartWarning, match="'other' was trained with"):
        first.load_adapter(tmp_path, "other")
    assert not torch.allclose(first(X), saved)


def adapted_before(name="default", **options):
    config = peft.LoraConfig(target_modules=["unused"])
    model = peft.get_peft_model(Tower(), config, adapter_name=name)
    return moved(mhc_compile.transform(model, n=2, example_inputs=(X,), modes=("train",), **options).train())


@pytest.mark.filterwarnings("ignore::mhc_compile.errors.SavedApartWarning")
def test_an_adapter_of_another_name_lies_in_a_folder_of_its_own(tmp_path):
    model = adapted_before("mine")
    model.save_pretrained(tmp_path)
    saved = model(X)
    moved(model)
    model.load_adapter(tmp_path / "mine", "mine", is_trainable=True)
    assert_close(model(X), saved)


@pytest.mark.filterwarnings("ignore::mhc_compile.errors.SavedApartWarning")
@pytest.mark.parametrize("options", [{"exclude": ("*.blocks.1*",)}, {"connection": "hc"}])
def test_hyper_connections_of_another_model_are_refused_before_anything_is_loaded(options, tmp_path):
    adapted_before(**options).save_pretrained(tmp_path)
    model = adapted_before()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora" in name:
                parameter.fill_(7.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointMismatchError):
        model.load_adapter(tmp_path, "default")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_process_that_is_not_the_main_one_writes_nothing(tmp_path):
    adapted_before().save_pretrained(tmp_path, True, None, "auto", False)
    assert not (tmp_path / "hyper_connections.safetensors").exists()


def test_a_checkpoint_of_the_plain_model_is_told_from_that_of_an_adapter(tmp_path):
    config = peft.LoraConfig(target_modules="all-linear", r=2)
    plain = peft.get_peft_model(Tower(), config)
    model = moved(mhc_compile.transform(plain, n=2, example_inputs=(X,), modes=("train",)))
    with pytest.warns(NotPreservingWarning, match="a checkpoint of the original"):
        model.load_state_dict({name: value for name, value in plain.state_dict().items() if "lora" not in name}, False)
