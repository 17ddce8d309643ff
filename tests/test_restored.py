from __future__ import annotations

import pytest
import torch
from torch import nn

import mhc_compile
from mhc_compile import checkpoint
from mhc_compile.errors import (
    CheckpointMismatchError,
    MissingCheckpointError,
    NothingToTransformError,
    UnreadableCheckpointError,
)
from mhc_compile.restored import read_state, restored
from tests.copies import copied
from tests.tables import also
from tests.toy_models import WIDTH, Tower

X = torch.randn(2, 3, WIDTH)
INPUTS = {"example_inputs": (X,)}


@copied
def trained(connection="hc", n=2, depth=2, **options):
    torch.manual_seed(1)
    options = {"connection": connection, "n": n, "modes": ("eval",), **options}
    model = mhc_compile.transform(Tower(depth).eval(), example_inputs=(X,), **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("form", ["model", "inside", *also("alone", "state_dict", "ddp", "safetensors")])
def test_a_checkpoint_says_what_it_was_made_with(form, tmp_path):
    model = trained()
    state = model.state_dict()
    path = tmp_path / ("x.safetensors" if form == "safetensors" else "x.pt")
    prefix = {"ddp": "module.", "inside": "net.gpt."}.get(form, "")
    state = {prefix + name: value for name, value in state.items()} | ({"loss.weight": X} if form == "inside" else {})
    checkpoint.save({form: state, "step": 3} if form in ("model", "state_dict") else state, path)
    made = restored(Tower(2).eval(), INPUTS, {"n": 4}, path)
    assert (made.model.mhc_plan.connection, made.model.mhc_plan.n) == ("hc", 2)
    torch.testing.assert_close(made.model(X), model(X), rtol=0, atol=0)
    assert made.note == f"weights of {path}"


@pytest.mark.parametrize("reduce", ["sum", *also("learned")])
def test_how_streams_are_read_out_is_restored(reduce, tmp_path):
    model = trained(reduce=reduce, init="random")
    checkpoint.save(model.state_dict(), tmp_path / "x.pt")
    made = restored(Tower(2).eval(), INPUTS, {}, tmp_path / "x.pt")
    assert made.model.mhc_plan.reduce == reduce
    torch.testing.assert_close(made.model(X), model(X), rtol=0, atol=0)


def test_a_plain_checkpoint_is_the_start(tmp_path):
    plain = Tower(2).eval()
    checkpoint.save(plain.state_dict(), tmp_path / "x.pt")
    made = restored(Tower(2).eval(), INPUTS, {"n": 4}, tmp_path / "x.pt")
    torch.testing.assert_close(made.model(X), plain(X))
    assert "initial values" in made.note


def test_without_a_checkpoint_there_are_initial_values():
    assert restored(Tower(2).eval(), INPUTS, {}, None).note == "no checkpoint: initial values"


def test_there_is_one_error_for_each_thing_that_can_be_wrong(tmp_path):
    checkpoint.save(trained(depth=3).state_dict(), tmp_path / "other.pt")
    checkpoint.save({"step": 3}, tmp_path / "empty.pt")
    (tmp_path / "text.pt").write_text("no checkpoint")
    for path, error, match in [
        ("none.pt", MissingCheckpointError, "there is no checkpoint"),
        (".", MissingCheckpointError, "no weights in the folder"),
        ("empty.pt", UnreadableCheckpointError, "no state of a model, only step"),
        ("text.pt", UnreadableCheckpointError, "text.pt"),
        ("other.pt", CheckpointMismatchError, r"another model than Tower.*: .* are unknown \(blocks.2"),
    ]:
        with pytest.raises(error, match=match):
            restored(Tower(2).eval(), INPUTS, {}, tmp_path / path)
    with pytest.raises(NothingToTransformError):
        restored(nn.Linear(WIDTH, WIDTH), INPUTS, {}, None)


def test_a_checkpoint_of_other_widths_is_of_another_model(tmp_path):
    checkpoint.save(Tower(2, 4).state_dict(), tmp_path / "x.pt")
    with pytest.raises(CheckpointMismatchError, match="have another shape"):
        restored(Tower(2).eval(), INPUTS, {}, tmp_path / "x.pt")


def test_a_folder_of_save_pretrained_is_read_by_its_weights(tmp_path):
    checkpoint.save(trained().state_dict(), tmp_path / "model.safetensors")
    assert "hyper_connections._extra_state" in read_state(tmp_path)
