"""`torch.compile(model, backend=mhc_compile.backend(...))`: the same sites, function and parameters as `transform`."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import nn

import mhc_compile
from mhc_compile.errors import InvalidOptionError, NothingToTransformError, NothingToTransformWarning, SecondModelError
from tests.dynamo.towers import distance, in_advance, inputs, randomise, tower
from tests.tables import also
from tests.toy_models import WIDTH, Block


# In training, the next test has every inner backend; `test_backend_modes.py` has Inductor without gradients.
@pytest.mark.parametrize(
    ("inner", "training"),
    [("eager", True), ("eager", False), *also(*product(("inductor", "aot_eager"), (True, False)))],
)
def test_the_function_is_kept(inner: str, training: bool) -> None:
    model, x = tower().train(training), inputs()
    wanted = model(x)
    assert distance(torch.compile(model, backend=mhc_compile.backend(inner=inner))(x), wanted) <= 1e-10


@pytest.mark.parametrize("inner", ["eager", "aot_eager", "inductor"])
def test_outputs_and_gradients_are_those_of_transform(inner: str) -> None:
    blocks = 2 if inner == "inductor" else 3  # an entry, a boundary, a readout: Inductor compiles each of them
    model, x, transformed = tower(blocks), inputs(), in_advance(blocks)
    compiled = torch.compile(model, backend=mhc_compile.backend(inner=inner))
    compiled(x)
    randomise(model, transformed)
    outputs = [compiled(x), transformed(x)]
    assert distance(*outputs) <= 1e-10
    for output in outputs:
        output.square().sum().backward()
    wanted = dict(transformed.named_parameters())
    for name, parameter in model.named_parameters():
        if not name.startswith("unused"):
            assert torch.allclose(parameter.grad, wanted[name].grad, rtol=1e-8, atol=1e-10), name


@pytest.mark.parametrize("dynamic", [False, True])
def test_an_inner_backend_may_run_the_graph_on_its_examples(dynamic: bool) -> None:
    """Examples of different kinds, real and fake, do not go together."""
    outputs: list[torch.Tensor] = []

    def inner(gm: torch.fx.GraphModule, example_inputs: list[Any]) -> Any:
        outputs.append(gm(*example_inputs)[0])
        return gm.forward

    model, x = tower(), inputs()
    compiled = torch.compile(model, backend=mhc_compile.backend(inner=inner), dynamic=dynamic)
    assert torch.equal(compiled(x), outputs[0])
    torch.compiler.reset()
    compiled = torch.compile(model, backend=mhc_compile.backend(inner="pre_dispatch_eager"))
    assert distance(compiled(x), outputs[0]) <= 1e-12


def test_keys_names_and_initial_values_are_those_of_transform() -> None:
    model, x = tower(), inputs()
    transformed = in_advance()
    torch.compile(model, backend=mhc_compile.backend(inner="eager"))(x)
    assert list(model.hyper_connections) == list(transformed.hyper_connections)
    assert list(model.state_dict()) == list(transformed.state_dict())
    for name, value in transformed.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)


def test_parameters_are_never_made_twice() -> None:
    model = tower()
    backend = mhc_compile.backend(inner="eager")
    compiled = torch.compile(model, backend=backend)
    compiled(inputs())
    made = [id(p) for p in backend.parameters()]
    compiled(inputs(4, 6))
    with torch.no_grad():
        compiled(inputs())
    model.eval()
    compiled(inputs())
    compiled(inputs(), mask=torch.ones(5, WIDTH, dtype=torch.float64))
    with torch.inference_mode():
        compiled(inputs())
    model.float()
    compiled(inputs().float())
    assert len(backend.records) >= 4
    assert [id(p) for p in backend.parameters()] == made


def test_parameters_made_in_inference_mode_can_be_trained() -> None:
    model = tower()
    compiled = torch.compile(model, backend=mhc_compile.backend(inner="eager"))
    with torch.inference_mode():
        compiled(inputs())
    compiled(inputs()).sum().backward()
    assert all(p.grad is not None for p in model.hyper_connections.parameters())


def test_batch_and_length_cost_one_recompile_each() -> None:
    model = tower()
    backend = mhc_compile.backend(inner="eager")
    compiled = torch.compile(model, backend=backend)
    for sizes in ((2, 8), (3, 8), (3, 9), (5, 11), (7, 20)):
        x = inputs(*sizes)
        assert distance(compiled(x), model(x)) <= 1e-10
    assert 1 <= len(backend.records) <= 3


def test_model_compile_in_place() -> None:
    model, x = tower(), inputs()
    wanted = model(x)
    model.compile(backend=mhc_compile.backend(inner="eager"))
    assert distance(model(x), wanted) <= 1e-10
    assert list(model.hyper_connections) == ["blocks.0", "blocks.1", "blocks.2"]


def test_a_compiled_function_finds_its_model() -> None:
    model, x = tower(), inputs()
    wanted = model(x).sum()

    @torch.compile(backend=mhc_compile.backend(inner="eager"))
    def step(x: torch.Tensor) -> torch.Tensor:
        return model(x).sum()

    assert step(x).item() == pytest.approx(wanted.item(), rel=1e-10)
    assert list(model.hyper_connections) == ["blocks.0", "blocks.1", "blocks.2"]


def test_a_function_without_a_module_is_compiled_as_it_is() -> None:
    compiled = torch.compile(lambda x: x + x.relu(), backend=mhc_compile.backend(inner="eager"))
    assert torch.equal(compiled(torch.ones(3)), torch.full((3,), 2.0))


def test_blocks_compiled_one_by_one_share_the_backend_of_their_model() -> None:
    model, x = tower(), inputs()
    wanted = model(x)
    backend = mhc_compile.backend(inner="eager")
    backend.attach(model, (x,))
    for block in model.blocks:
        block.compile(backend=backend)
    assert distance(model(x), wanted) <= 1e-10
    assert {key for record in backend.records for key in [s.key for s in record.plan.sites]} == set(
        model.hyper_connections
    )


@pytest.mark.parametrize("other", [tower, lambda: nn.Sequential(Block(), Block()).double()])
def test_a_second_model_is_refused(other: Any) -> None:
    backend = mhc_compile.backend(inner="eager")
    torch.compile(tower(), backend=backend)(inputs())  # of the same class: Dynamo calls the graph it has
    kept = tower()
    backend = mhc_compile.backend(inner="eager")
    torch.compile(kept, backend=backend)(inputs())
    with pytest.raises(SecondModelError, match=r"one mhc_compile\.backend"):
        torch.compile(other(), backend=backend)(inputs())


def test_options_of_the_rewrite() -> None:
    model, x = tower(), inputs()
    wanted = model(x)
    backend = mhc_compile.backend(n=2, connection="identity", reduce="learned", exclude=["blocks.1"], inner="eager")
    assert distance(torch.compile(model, backend=backend)(x), wanted) <= 1e-10
    assert "blocks.1" not in model.hyper_connections
    assert model.hyper_connections["blocks.0"].phi.size(0) == 2 * WIDTH


def test_wrong_options_are_refused_early() -> None:
    with pytest.raises(InvalidOptionError, match="unknown option streams"):
        mhc_compile.backend(streams=4)
    with pytest.raises(InvalidOptionError, match="rewrite twice"):
        mhc_compile.backend(inner="mhc")


def test_an_unknown_inner_backend_is_named() -> None:
    with pytest.raises(InvalidOptionError, match="'inductr' is no backend"):
        torch.compile(tower(), backend=mhc_compile.backend(inner="inductr"))(inputs())


def test_nothing_to_rewrite_is_said() -> None:
    with pytest.warns(NothingToTransformWarning):
        torch.compile(nn.Linear(3, 3), backend=mhc_compile.backend(inner="eager"))(torch.ones(2, 3))
    with pytest.raises(NothingToTransformError):
        torch.compile(nn.Linear(3, 3), backend=mhc_compile.backend(inner="eager", strict=True))(torch.ones(2, 3))
