"""Models and hyper-connections that are made while PyTorch is not recording."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import mhc_compile
from mhc_compile.capture.inference import make_ordinary
from tests.toy_models import WIDTH, Block, Checkpointed, Tower

X = torch.randn(2, 3, WIDTH)
MODES = [torch.inference_mode, torch.no_grad]


@pytest.fixture(autouse=True)
def _fresh_dynamo() -> None:
    torch.compiler.reset()


def learns(model: nn.Module) -> bool:
    model.train()(X).sum().backward()
    torch.optim.SGD(model.parameters(), 0.1).step()
    return all(p.grad is not None for p in model.hyper_connections.parameters())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", [Tower, Checkpointed])  # the second has a tensor that is a plain attribute
def test_what_is_built_and_transformed_without_recording_can_be_trained(mode, kind) -> None:
    with mode():
        x = torch.randn(2, 3, WIDTH)
        twin = mhc_compile.transform(kind(), n=2, example_inputs=(x,), modes=("eval",))
        twin.eval()(x)
    assert learns(twin)


@pytest.mark.parametrize("mode", MODES)
def test_traces_do_not_depend_on_it(mode) -> None:
    model = Tower()
    with mode():
        twin = mhc_compile.transform(model, n=2, example_inputs=(X,))
    made = len(twin._mhc.programs)
    twin.train()(X).sum().backward()
    twin.eval()(X)
    assert len(twin._mhc.programs) == made


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("attached", [True, False])
def test_what_a_backend_creates_can_be_trained(mode, attached) -> None:
    backend = mhc_compile.backend(n=2, inner="eager")
    with mode():
        model = Tower() if attached else None
        if model is not None:
            backend.attach(model, (X,), modes=("train",))
    model = model or Tower()
    model.compile(backend=backend)
    with mode():
        model(X)
    assert learns(model)


def test_the_model_keeps_its_objects_values_and_ties() -> None:
    with torch.inference_mode():
        model = Tower()
    model.stem.bias.requires_grad_(False)
    objects, values = list(model.parameters()), [p.detach().clone() for p in model.parameters()]
    make_ordinary(model)
    assert all(a is b for a, b in zip(objects, model.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(values, model.parameters(), strict=True))
    assert model.head.weight is model.stem.weight and isinstance(model.stem.weight, nn.Parameter)
    assert not model.stem.bias.requires_grad and model.stem.weight.requires_grad
    assert not any(t.is_inference() for t in (*model.parameters(), *model.buffers()))


def test_ordinary_tensors_are_left_alone() -> None:
    model = Tower()
    places = [p.data_ptr() for p in model.parameters()]
    make_ordinary(model)
    assert places == [p.data_ptr() for p in model.parameters()]


def test_a_refusal_under_inference_mode_is_the_usual_one() -> None:
    with torch.inference_mode(), pytest.raises(mhc_compile.errors.InvalidOptionError):
        mhc_compile.transform(Tower(), n=0, example_inputs=(X,))


def test_a_graph_that_was_made_and_rewritten_without_recording() -> None:
    with torch.inference_mode():
        gm, _ = mhc_compile.rewrite(torch.fx.symbolic_trace(Block()), n=2, example_inputs=(X,))
    assert learns(gm)
