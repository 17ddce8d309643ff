"""One model has one set of new parameters, whichever of its parts or wrappers is compiled, and by which backend."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import mhc_compile
from mhc_compile.errors import OtherParametersError, SecondModelError
from tests.dynamo.towers import distance, inputs, randomise, tower
from tests.tables import also
from tests.toy_models import Block


class Wrapper(nn.Module):
    """A model inside another, with a block behind it or without."""

    def __init__(self, behind: nn.Module | None = None) -> None:
        super().__init__()
        self.net = tower()
        self.behind = behind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.net(x)
        return x if self.behind is None else self.behind(x)


def eager(**options: object) -> mhc_compile.Backend:
    return mhc_compile.backend(inner="eager", **options)


def owners(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if "hyper_connections" in module._modules]


@pytest.mark.parametrize("by_name", [False, *also(True)])
@pytest.mark.parametrize("first", ["net", ""])
def test_a_wrapper_and_the_model_inside_share_parameters(first: str, by_name: bool) -> None:
    wrapper, x = Wrapper(), inputs()
    plain = wrapper(x)
    eager().attach(wrapper.get_submodule(first), (x,))
    randomise(wrapper.get_submodule(first))

    def run(module: nn.Module) -> torch.Tensor:
        torch.compiler.reset()
        if by_name:
            return torch.compile(module, backend="mhc", options={"inner": "eager"})(x)
        return torch.compile(module, backend=eager())(x)

    assert distance(run(wrapper), run(wrapper.net)) <= 1e-12
    assert distance(run(wrapper), plain) > 1e-3
    assert owners(wrapper) == [first]


def test_attach_finds_the_parameters_of_the_model_inside() -> None:
    wrapper, x = Wrapper(), inputs()
    eager().attach(wrapper.net, (x,))
    eager().attach(wrapper, (x,))
    assert owners(wrapper) == ["net"]
    assert list(wrapper.net.hyper_connections) == ["blocks.0", "blocks.1", "blocks.2"]


def test_sites_around_the_model_with_the_parameters_are_refused() -> None:
    wrapper, x = Wrapper(Block().double()), inputs()
    eager().attach(wrapper.net, (x,))
    with pytest.raises(OtherParametersError, match=r"lies outside of the Tower .*get_submodule\('net'\)\.hyper"):
        torch.compile(wrapper, backend=eager())(x)


def test_several_parts_with_parameters_of_their_own_are_refused_in_one_graph() -> None:
    model, x = nn.Sequential(tower(), tower()), inputs()
    for part in model:
        torch.compile(part, backend=eager())(x)
    with pytest.raises(OtherParametersError, match="2 modules in or around this Sequential"):
        torch.compile(model, backend=eager())(x)
    assert owners(model) == ["0", "1"]


def test_the_messages_lead_from_blocks_compiled_one_by_one_to_a_model_that_runs() -> None:
    model, x, backend = tower(), inputs(), eager()
    wanted = model(x)
    for block in model.blocks:
        block.compile(backend=backend)
    with pytest.raises(SecondModelError, match=r"attach.* with the whole before the first call"):
        model(x)
    with pytest.raises(OtherParametersError, match=r"del model\.get_submodule\('blocks\.0'\)\.hyper_connections"):
        backend.attach(model, (x,))
    del model.get_submodule("blocks.0").hyper_connections
    backend.attach(model, (x,))
    assert distance(model(x), wanted) <= 1e-10
    randomise(model)
    assert distance(model(x), wanted) > 1e-3 and owners(model) == [""]


def test_blocks_with_parameters_of_their_own_are_named() -> None:
    model, x = tower(), inputs()
    for block in model.blocks:
        block.compile(backend=eager())
    model(x)
    with pytest.raises(OtherParametersError, match=r"blocks\.0, blocks\.1"):
        eager().attach(model, (x,))


@pytest.mark.parametrize("behind", [Block().double(), None])
@pytest.mark.parametrize("single", [False, *also(True)])
def test_a_part_that_is_transformed_later_has_its_parameters_already(behind: nn.Module | None, single: bool) -> None:
    wrapper, x, backend = Wrapper(behind), inputs(), eager()
    if single:
        wrapper.net = Block().double()
    compiled = torch.compile(wrapper, backend=backend)
    compiled(x)
    randomise(wrapper)
    trained = compiled(x)
    wrapper.net = mhc_compile.transform(wrapper.net, example_inputs=(x,))
    for call in (lambda: compiled(x), lambda: backend.attach(wrapper, (x,))):
        with pytest.raises(OtherParametersError, match=r"net was made by .*revert.*del model\.hyper_connections"):
            call()
    transformed, wrapper.net = wrapper.net, mhc_compile.revert(wrapper.net)
    assert distance(compiled(x), trained) <= 1e-10
    wrapper.net = transformed
    del wrapper.hyper_connections
    assert distance(compiled(x), wrapper(x)) <= 1e-10
    assert owners(wrapper) == ([] if behind is None else [""]) + ["net"]


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")
def test_a_scripted_module_elsewhere_in_the_process_does_not_matter() -> None:
    scripted, x = torch.jit.script(nn.Linear(2, 2)), inputs()
    model = tower()
    assert eager().attach(model, (x,)) and distance(torch.compile(model, backend=eager())(x), model(x)) <= 1e-10
    del scripted
