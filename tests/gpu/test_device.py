"""On a real GPU: eager and compiled models compute what eager fp64 does, real models keep their function."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

import mhc_compile
from mhc_compile.verification.compare import distance
from tests.gpu import models
from tests.moved import move
from tests.zoo.build import build
from tests.zoo.compare import random_loss, without_dropout

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
TOLERANCE = 1e-4  # relative to the largest value, fp32
HALF_TOLERANCE = {torch.bfloat16: 0.1, torch.float16: 0.01}  # relative to the norm of what is right
WAYS: dict[str, Callable[[nn.Module], Any]] = {
    "eager": lambda model: model,
    "compiled": torch.compile,
    "cuda graphs": lambda model: torch.compile(model, mode="reduce-overhead"),
    "dynamic": lambda model: torch.compile(model, dynamic=True),
}
REAL = ("hf:gpt2", "hf:bert", "hf:llama", "hf:vit", "timm:vit_tiny_patch16_224", "timm:convnext_atto")


@pytest.fixture(autouse=True)
def products_in_full_precision() -> Iterator[None]:
    """Convolutions on a GPU take TF32 by default."""
    allowed, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    yield
    torch.backends.cudnn.allow_tf32 = allowed


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", models.CASES)
def test_output_and_every_gradient_are_those_of_fp64(case: str, way: str) -> None:
    model, (x,) = models.CASES[case]()
    assert_right(model, x, WAYS[way], TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["eager", "compiled"])
@pytest.mark.parametrize("dtype", HALF_TOLERANCE)
def test_half_precision_models_stay_near(dtype: torch.dtype, way: str) -> None:
    model, (x,) = models.transformer(64)
    assert_right(model.to(dtype), x.to(dtype), WAYS[way], HALF_TOLERANCE[dtype])


@pytest.mark.slow
@pytest.mark.parametrize("way", ["eager", "compiled", "cuda graphs"])
def test_recomputation_changes_no_gradient(way: str) -> None:
    model, (x,) = models.plain(64, depth=6)
    options = {"example_inputs": (x,), "init": "random"}
    kept = mhc_compile.transform(copy.deepcopy(model), 4, **options)
    model = mhc_compile.transform(model, 4, recompute=3, **options)
    kept.load_state_dict(model.state_dict())
    assert_right(model, x, WAYS[way], TOLERANCE, reference=kept)


@pytest.mark.slow
def test_the_backend_computes_what_the_transformed_model_does() -> None:
    model, (x,) = models.plain(64)
    transformed = move(mhc_compile.transform(copy.deepcopy(model), 4, example_inputs=(x,))).cuda()
    backend = mhc_compile.backend(n=4)
    backend.attach(model, (x,))
    compiled = torch.compile(move(model).cuda(), backend=backend)
    assert distance(transformed(x.cuda()), compiled(x.cuda())) <= TOLERANCE


@pytest.mark.slow
def test_a_scaled_loss_under_autocast_trains_as_without_scaling() -> None:
    model, (x,) = models.plain(64)
    losses = {scaled: _losses(model, x, scaled) for scaled in (False, True)}
    assert losses[True][-1] < losses[True][0]
    assert losses[True] == pytest.approx(losses[False], rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("target", REAL)
def test_real_models_keep_their_function_and_learn(target: str) -> None:
    model, args, kwargs = build(target)
    model = without_dropout(model).cuda()
    args, kwargs = tree_map(lambda v: v.cuda() if isinstance(v, Tensor) else v, (args, kwargs))
    expected = model(*args, **kwargs)
    transformed = mhc_compile.transform(copy.deepcopy(model), 4, example_inputs=args, example_kwargs=kwargs)
    assert transformed.mhc_plan.sites
    for way in ("eager", "compiled"):
        transformed.zero_grad(set_to_none=True)
        output = WAYS[way](transformed)(*args, **kwargs)
        assert distance(expected, output) <= 10 * TOLERANCE
        random_loss(output).backward()
        for name, parameter in transformed.hyper_connections.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def _losses(model: nn.Module, x: Tensor, scaled: bool) -> list[float]:
    model = mhc_compile.transform(copy.deepcopy(model), 4, example_inputs=(x,)).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scaler, x = torch.amp.GradScaler(enabled=scaled), x.cuda()
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.float16 if scaled else torch.bfloat16):
            loss = (model(x) - 1).square().mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(float(loss))
    return losses


def assert_right(
    model: nn.Module,
    x: Tensor,
    way: Callable[[nn.Module], Any],
    tolerance: float,
    reference: nn.Module | None = None,
) -> None:
    """Output and gradients of the model on a GPU beside those of `reference`, or its own, in fp64 on the CPU."""
    exact, model, x = copy.deepcopy(model if reference is None else reference).double(), model.cuda(), x.cuda()
    called = way(model)
    for _ in range(3):  # CUDA graphs are recorded in the second call and replayed in the third
        model.zero_grad(set_to_none=True)
        output = called(x)
        grad = torch.linspace(-1, 1, output.numel(), device="cuda").view_as(output).to(output.dtype)
        output.backward(grad)
    expected = exact(x.cpu().double())
    expected.backward(grad.cpu().double())
    assert_close(output, expected, tolerance)
    for parameter, reference in zip(model.parameters(), exact.parameters(), strict=True):
        assert_close(parameter.grad, reference.grad, tolerance)


def assert_close(found: Tensor | None, expected: Tensor | None, tolerance: float) -> None:
    assert found is not None and expected is not None
    size = Tensor.norm if tolerance in HALF_TOLERANCE.values() else lambda t: t.abs().max()
    assert size(found.detach().cpu().double() - expected) <= tolerance * size(expected)
