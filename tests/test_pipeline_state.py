"""Whose parameters a stage has, and which checkpoints it loads."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

import mhc_compile
from mhc_compile import errors, pipeline
from tests.staged_decoder import Decoder, batch, cut, decoder, run
from tests.toy_models import WIDTH, Tower


def test_a_state_dict_of_the_whole_model_loads_into_each_stage():
    source, target = decoder(), decoder()
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    stages = cut(target, "blocks.1", "blocks.3")
    for stage in stages:
        assert stage.load_state_dict(source.state_dict()) == ([], [])
    ids, keep, _ = batch()
    assert torch.equal(run(stages, ids, keep)[0], source(ids, keep))
    lacking = {k: v for k, v in source.state_dict().items() if k != "blocks.0.norm.weight"}
    with pytest.raises(RuntimeError, match=r"blocks\.0\.norm\.weight"):
        stages[0].load_state_dict(lacking)
    stages[1].load_state_dict(lacking)


@pytest.fixture(scope="module")
def made_halves():
    model = decoder()
    return model, cut(model, "blocks.2"), copy.deepcopy(model.state_dict())


@pytest.fixture
def halves(made_halves):
    """A decoder and its two stages, which share its parameters, as they were made."""
    model, stages, start = made_halves
    yield model, stages
    model.load_state_dict(start)


def test_a_plain_checkpoint_loads_into_each_stage(halves):
    torch.manual_seed(5)
    plain = Decoder()
    _, stages = halves
    for stage in stages:
        stage.load_state_dict(plain.state_dict())
    ids, keep, _ = batch()
    torch.testing.assert_close(run(stages, ids, keep)[0], plain(ids, keep), rtol=0, atol=1e-5)


def test_a_plain_checkpoint_beside_trained_connections_is_warned_of(halves):
    model, (_, stage) = halves
    with torch.no_grad():
        model.hyper_connections["blocks.0.attn"].phi.fill_(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stage.load_state_dict(Decoder().state_dict())  # it was another stage that moved
    with torch.no_grad():
        stage.hyper_connections["blocks.3.attn"].phi.fill_(1)
    with pytest.warns(errors.NotPreservingWarning, match=r"original Decoder .*blocks\.3\.attn"):
        stage.load_state_dict(Decoder().state_dict())


def test_a_checkpoint_of_another_connection_is_refused(halves):
    _, (_, stage) = halves
    with pytest.raises(errors.CheckpointMismatchError, match="'hc'"):
        stage.load_state_dict(decoder(connection="hc").state_dict())


def test_unused_parameters_are_in_exactly_one_stage():
    torch.manual_seed(0)
    tower = Tower()
    tower.head.weight = nn.Parameter(tower.head.weight.detach().clone())
    tower.blocks[2].spare = nn.Linear(2, 2)
    x = torch.randn(2, 3, WIDTH)
    given = {"example_inputs": (x,), "modes": ("train",)}
    model = mhc_compile.transform(tower, **given)
    stages = pipeline.split(model, ["blocks.1", "blocks.2"], **given)
    states = [set(stage.state_dict()) for stage in stages]
    assert set().union(*states) == set(model.state_dict())
    assert [("unused.weight" in s, "blocks.2.spare.bias" in s) for s in states] == [
        (True, False), (False, False), (False, True),
    ]  # fmt: skip


def test_a_weight_tied_within_one_stage_stays_tied():
    torch.manual_seed(0)
    x = torch.randn(2, 3, WIDTH)
    given = {"example_inputs": (x,), "modes": ("train",)}
    model = mhc_compile.transform(TiedAtTheEnd(), **given)
    last = pipeline.split(model, "blocks.2", **given)[1]
    assert last.head.weight is last.get_submodule("blocks.2").down.weight
    assert {"head.weight", "blocks.2.down.weight"} <= set(last.state_dict())


class TiedAtTheEnd(Tower):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2 * WIDTH, WIDTH)
        self.blocks[2].down.weight = self.head.weight

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(torch.cat((x, x), -1))
