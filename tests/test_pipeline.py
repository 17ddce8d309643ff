"""Stages one after another, in one process, are the whole model: results, gradients, state, memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import mhc_compile
from benchmarks.timing import saved_bytes
from mhc_compile import errors, pipeline
from tests.staged_decoder import BATCH, LENGTH, batch, cut, decoder, loss_of, run
from tests.tables import also
from tests.toy_models import WIDTH, Block


@pytest.fixture(scope="module", params=["mhc", *also("hc")])  # "hc" has other coefficients and crosses the same borders
def parts(request):
    """A transformed model in both modes and its three stages."""
    model = decoder(connection=request.param, init="random", modes=("train", "eval"))
    return model, cut(model, "blocks.1", "blocks.3", modes=("train", "eval"))


@pytest.mark.parametrize("training", [True, False])
def test_three_stages_compute_what_the_model_does(parts, training):
    model, stages = parts
    ids, keep, _ = batch(size=3)
    for module in (model, *stages):
        module.train(training)
    with torch.set_grad_enabled(training):
        torch.testing.assert_close(run(stages, ids, keep)[0], model(ids, keep), rtol=0, atol=0)


def test_gradients_through_three_stages_are_those_of_the_model(parts):
    model, stages = parts
    ids, keep, labels = batch()
    gradients = []
    for call in (model, lambda *inputs: run(stages, *inputs)[0]):
        model.zero_grad()
        loss_of(call(ids, keep), labels).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name in gradients[0]:  # that of the bias is summed in another order
        torch.testing.assert_close(gradients[0][name], gradients[1][name], rtol=1e-5, atol=1e-6, msg=name)


def test_streams_cross_as_one_tensor_and_constants_do_not(parts):
    """Beside the streams travel the learned bias and the input `keep`; the causal mask is made in each stage."""
    _, stages = parts
    _, borders = run(stages, *batch()[:2])
    for stage, border in zip(stages[1:], borders, strict=True):
        assert [tuple(t.shape) for t in border] == [
            (4, BATCH, LENGTH, WIDTH), (BATCH, LENGTH), (LENGTH, LENGTH),
        ]  # fmt: skip
        assert [c.streams for c in stage.mhc_stage.receives] == [True, False, False]
        assert [c.dtype for c in stage.mhc_stage.receives] == [torch.float32, torch.bool, torch.float32]
    assert stages[0].mhc_stage.sends == stages[1].mhc_stage.receives and stages[-1].mhc_stage.sends == ()


def test_each_stage_restores_its_streams():
    x, kept, gradients = torch.randn(2, 64, 32, generator=torch.Generator().manual_seed(0)), [], []
    for recompute in (None, 4):
        torch.manual_seed(0)
        model = nn.Sequential(*(Block(32) for _ in range(8)))
        given = {"example_inputs": x, "modes": ("train",)}
        model = mhc_compile.transform(model, init="random", recompute=recompute, **given)
        stages = nn.ModuleList(pipeline.split(model, "4", **given))
        kept.append(saved_bytes(stages, lambda stages=stages: run(stages, x)[0].sum()).activations)
        run(stages, x)[0].square().sum().backward()
        gradients.append([p.grad for p in stages.parameters()])
    assert kept[1] < 0.85 * kept[0]
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_stages_together_have_the_state_of_the_model_under_its_names(parts):
    model, stages = parts
    whole = model.state_dict()
    states = [stage.state_dict() for stage in stages]
    header = "hyper_connections._extra_state"
    assert set().union(*states) == set(whole)
    for state in states:
        assert header in state
        assert all(torch.equal(value, whole[name]) for name, value in state.items())
    shared = [name for name in whole if sum(name in state for state in states) > 1]
    assert shared == [header]
    assert "blocks.3.attn.qkv.weight" in states[2] and "blocks.2.attn.qkv.weight" in states[1]
    sites = [[key for key in stage.hyper_connections] for stage in stages]
    assert sites[2] == ["blocks.3.attn", "blocks.3.mlp"]
    assert [key for of_stage in sites for key in of_stage] == list(model.hyper_connections)


class Returns(nn.Module):
    def __init__(self, structure):
        super().__init__()
        self.structure = structure
        self.blocks = nn.Sequential(Block(), Block())

    def forward(self, x):
        return self.structure(self.blocks(x))


def split_with_output(structure):
    x = torch.randn(2, 3, WIDTH)
    model = mhc_compile.transform(Returns(structure), example_inputs=(x,), modes=("train",))
    return run(pipeline.split(model, "blocks.1", example_inputs=(x,), modes=("train",)), x)[0]


def test_a_model_that_returns_something_else_than_tensors_is_refused():
    with pytest.raises(errors.StageOutputError, match=r"Returns returns a dict .*return self.model\(ids\).logits"):
        split_with_output(lambda x: {"logits": x})
    with pytest.raises(errors.StageOutputError, match=r"a tuple of its outputs"):
        split_with_output(lambda x: (x, (x, x)))


def test_a_model_may_return_several_tensors():
    assert [type(value) for value in split_with_output(lambda x: (x, x + 1))] == [torch.Tensor, torch.Tensor]
