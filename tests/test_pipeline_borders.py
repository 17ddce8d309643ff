"""What crosses from stage to stage: streams or one tensor, weights to read them with, in memory as it is sent."""

from __future__ import annotations

import torch
from torch import nn

import mhc_compile
from mhc_compile import pipeline
from tests.staged_decoder import BATCH, LENGTH, batch, cut, decoder, loss_of, run
from tests.toy_models import WIDTH, Block


def test_read_weights_of_single_pass_cross_with_the_streams():
    """The first site of a stage is read with the weights of the last site of the stage before."""
    model = decoder(connection="mhc-single-pass", init="random")
    stages = cut(model, "blocks.1", "blocks.3")
    ids, keep, labels = batch()
    logits, borders = run(stages, ids, keep)
    torch.testing.assert_close(logits, model(ids, keep), rtol=0, atol=1e-5)
    for border in borders:
        assert [tuple(t.shape) for t in border[:1]] == [(4, BATCH, LENGTH, WIDTH)]
        assert (4, BATCH, LENGTH, 1) in [tuple(t.shape) for t in border]
    gradients = []
    for output in (model(ids, keep), logits):
        model.zero_grad()
        loss_of(output, labels).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, whole in gradients[0].items():
        torch.testing.assert_close(whole, gradients[1][name], rtol=1e-4, atol=1e-6, msg=name)


def test_the_residual_stream_crosses_alone_where_there_is_nothing_else():
    torch.manual_seed(0)
    x = torch.randn(2, 3, WIDTH)
    given = {"example_inputs": (x,), "modes": ("train",)}
    model = mhc_compile.transform(nn.Sequential(Block(), Block(), Block()), **given)
    stages = pipeline.split(model, "1", **given)
    assert isinstance(stages[0](x), torch.Tensor) and stages[0](x).shape == (4, 2, 3, WIDTH)
    assert torch.equal(run(stages, x)[0], model(x))


class Sideways(nn.Module):
    """Every block adds what is computed once, and transposed."""

    def __init__(self):
        super().__init__()
        self.side = nn.Linear(3, 3)
        self.blocks = nn.ModuleList(Block() for _ in range(3))

    def forward(self, x):
        side = self.side(x.transpose(1, 2)).transpose(1, 2)
        for block in self.blocks:
            x = block(x) * side
        return x


def test_what_crosses_a_border_is_contiguous_whatever_it_is_in_the_model():
    """PyTorch sends the memory of a tensor as it lies there."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, WIDTH)
    model = mhc_compile.transform(Sideways(), example_inputs=(x,), modes=("train",))
    assert not model.side(x.transpose(1, 2)).transpose(1, 2).is_contiguous()
    result, borders = run(pipeline.split(model, ["blocks.1", "blocks.2"], example_inputs=(x,), modes=("train",)), x)
    assert [len(border) for border in borders] == [2, 2]
    assert all(t.is_contiguous() for border in borders for t in border)
    torch.testing.assert_close(result, model(x), rtol=0, atol=0)


def test_a_cut_before_the_streams_begin_sends_the_tensor_they_stand_for():
    stages = cut(decoder(), "blocks.0")
    _, (border,) = run(stages, *batch()[:2])
    assert {tuple(t.shape) for t in border} == {(BATCH, LENGTH, WIDTH), (BATCH, LENGTH), (LENGTH, LENGTH)}
    assert not any(c.streams for c in stages[1].mhc_stage.receives)
    assert list(stages[0].hyper_connections) == []
