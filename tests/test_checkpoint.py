"""Checkpoints of a model: it comes back bit for bit, the wrong one is refused, a plain one is upcycled."""

from __future__ import annotations

import random
import sys

import pytest
import torch
from torch import nn

import mhc_compile
from mhc_compile import checkpoint
from mhc_compile.errors import (
    CheckpointMismatchError,
    MissingPackageError,
    NewerCheckpointError,
    NotPreservingWarning,
    UnreadableCheckpointError,
)
from mhc_compile.twin.header import KEY
from tests.copies import copied
from tests.toy_models import WIDTH, Tower

X = torch.randn(2, 3, WIDTH, generator=torch.Generator().manual_seed(0))


SUFFIXES = ["pt", "safetensors"]


@copied
def transformed(**options):
    return mhc_compile.transform(Tower(), **{"n": 2, "example_inputs": (X,), "modes": ("train",), **options})


def randomise(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.fixture(scope="module")
def trained():
    return randomise(transformed())


class Noted(nn.Module):
    """A module with an extra state that is no tensor, and two views of one tensor."""

    def __init__(self, note):
        super().__init__()
        self.note = note
        both = torch.arange(6.0)
        self.register_buffer("first", both[:4])
        self.register_buffer("last", both[2:])

    def get_extra_state(self):
        return {"note": self.note, "scale": torch.ones(2)}

    def set_extra_state(self, state):
        self.note = state["note"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_model_comes_back_bit_for_bit_with_strict_loading(trained, tmp_path, suffix):
    path = tmp_path / f"model.{suffix}"
    checkpoint.save(trained.state_dict(), path)
    other = transformed()
    assert str(other.load_state_dict(checkpoint.load(path), strict=True)) == "<All keys matched successfully>"
    assert torch.equal(other(X), trained(X))
    assert other.head.weight is other.stem.weight
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_files_of_torch_and_safetensors_themselves_are_read_and_can_be_written(trained, tmp_path):
    import safetensors.torch

    torch.save(trained.state_dict(), tmp_path / "a.pt")
    safetensors.torch.save_model(trained, str(tmp_path / "a.safetensors"))
    assert torch.load(tmp_path / "a.pt", weights_only=True).keys() == checkpoint.load(tmp_path / "a.pt").keys()
    other = transformed()
    safetensors.torch.load_model(other, str(tmp_path / "a.safetensors"))
    assert torch.equal(other(X), trained(X))
    checkpoint.save(trained.state_dict(), tmp_path / "b.safetensors")
    plain_reader = safetensors.torch.load_file(tmp_path / "b.safetensors")
    assert torch.equal(plain_reader["stem.weight"], trained.stem.weight) and KEY in plain_reader


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_shared_storage_and_extra_states_of_other_modules_survive(tmp_path, suffix):
    path, state = tmp_path / f"x.{suffix}", Noted("written").state_dict()
    checkpoint.save(state, path)
    other = Noted("")
    other.load_state_dict(checkpoint.load(path), strict=True)
    assert other.note == "written" and torch.equal(other.last, torch.arange(2.0, 6.0))


def test_tied_tensors_are_stored_once_and_named_in_the_metadata(trained, tmp_path):
    from safetensors import safe_open

    checkpoint.save(trained.state_dict(), tmp_path / "x.safetensors")
    with safe_open(str(tmp_path / "x.safetensors"), "pt") as file:
        assert "head.weight" not in file.keys()  # noqa: SIM118 - not a mapping
        assert "connection='mhc' with n=2" in file.metadata()["mhc_compile"]
    state = checkpoint.load(tmp_path / "x.safetensors")
    assert state["head.weight"] is state["stem.weight"]


def test_optimizer_and_counters_go_into_the_same_file(trained, tmp_path):
    optimizer = torch.optim.AdamW(mhc_compile.parameter_groups(trained))
    trained(X).sum().backward()
    optimizer.step()
    checkpoint.save({"model": trained.state_dict(), "optimizer": optimizer.state_dict(), "step": 3}, tmp_path / "x.pt")
    state, fresh = checkpoint.load(tmp_path / "x.pt"), torch.optim.AdamW(mhc_compile.parameter_groups(trained))
    fresh.load_state_dict(state["optimizer"])
    assert state["step"] == 3
    named = [(name, p) for name, p in trained.named_parameters() if p in optimizer.state]
    moments = {name: optimizer.state[p]["exp_avg"] for name, p in named}
    assert all(torch.equal(fresh.state[p]["exp_avg"], moments[name]) for name, p in named)
    assert any(name.startswith("hyper_connections.") and value.any() for name, value in moments.items())


@pytest.mark.parametrize("options", [{"n": 3}, {"connection": "identity"}, {"reduce": "learned"}])
def test_the_wrong_model_is_refused_before_anything_is_loaded(trained, options):
    other = transformed(**options)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(CheckpointMismatchError, match=r"connection='mhc' with n=2.*the model has"):
        other.load_state_dict(trained.state_dict(), strict=False)
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())


def test_a_model_inside_another_is_checked_as_well(trained):
    outer = nn.ModuleDict({"net": transformed(n=3)})
    with pytest.raises(CheckpointMismatchError):
        outer.load_state_dict(nn.ModuleDict({"net": trained}).state_dict())


def test_a_later_format_is_refused(trained):
    state = trained.state_dict()
    state[KEY] = torch.tensor(list(b'{"format": 99}'.ljust(256)), dtype=torch.uint8)
    with pytest.raises(NewerCheckpointError, match="format 99"):
        transformed().load_state_dict(state)


def test_missing_and_unexpected_names_are_still_errors_under_strict_loading(trained):
    state = trained.state_dict()
    state["surplus"] = state.pop("stem.bias")
    with pytest.raises(RuntimeError, match=r"(?s)Missing.*stem\.bias.*Unexpected.*surplus"):
        transformed().load_state_dict(state, strict=True)
    state = trained.state_dict()
    del state["hyper_connections.blocks__0.phi"]
    with pytest.raises(RuntimeError, match=r"Missing.*blocks__0\.phi"):
        transformed().load_state_dict(state, strict=True)


def test_a_plain_checkpoint_is_upcycled_and_reverting_writes_one_back(tmp_path, recwarn):
    plain, twin = randomise(Tower()), transformed()
    fresh = {n: p.clone() for n, p in twin.hyper_connections.named_parameters()}
    torch.save(plain.state_dict(), tmp_path / "plain.pt")
    twin.load_state_dict(checkpoint.load(tmp_path / "plain.pt"), strict=True)
    assert all(torch.equal(p, fresh[n]) for n, p in twin.hyper_connections.named_parameters())
    assert torch.allclose(twin(X), plain(X), rtol=1e-4, atol=1e-5)

    checkpoint.save(mhc_compile.revert(twin, strict=True).state_dict(), tmp_path / "back.pt")
    back = Tower()
    back.load_state_dict(checkpoint.load(tmp_path / "back.pt"), strict=True)
    assert torch.equal(back(X), plain(X))
    assert not [w for w in recwarn if w.category is NotPreservingWarning]


def test_a_plain_checkpoint_beside_trained_hyper_connections_is_a_warning(trained):
    with pytest.warns(NotPreservingWarning, match="reset_parameters"):
        randomise(transformed()).load_state_dict(Tower().state_dict(), strict=True)


def test_a_plain_checkpoint_with_a_missing_name_is_still_an_error():
    state = Tower().state_dict()
    del state["blocks.1.up.bias"]
    with pytest.raises(RuntimeError, match=r"blocks\.1\.up\.bias"):
        transformed().load_state_dict(state, strict=True)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_cut_anywhere_is_unreadable(trained, tmp_path, suffix):
    whole, cut = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"
    checkpoint.save(trained.state_dict(), whole)
    content = whole.read_bytes()
    for length in [0, 1, 7, 8, len(content) - 1, *random.Random(0).sample(range(len(content)), 15)]:
        cut.write_bytes(content[:length])
        with pytest.raises(UnreadableCheckpointError, match=f"cut.{suffix} is .*no "):
            checkpoint.load(cut)


def test_upcycling_leaves_the_new_parameters_the_same_objects():
    twin = transformed()
    before = dict(twin.hyper_connections.named_parameters())
    twin.load_state_dict(Tower().state_dict(), strict=True, assign=True)
    assert all(p is before[n] for n, p in twin.hyper_connections.named_parameters())


def test_a_state_dict_of_other_parts_leaves_the_model_alone(recwarn):
    outer = nn.ModuleDict({"net": randomise(transformed()), "head": nn.Linear(2, 2)})
    found = outer.load_state_dict({"head.weight": torch.ones(2, 2), "head.bias": torch.ones(2)}, strict=False)
    assert "net.hyper_connections.blocks__0.phi" in found.missing_keys
    assert not [w for w in recwarn if w.category is NotPreservingWarning]


def test_safetensors_is_optional(trained, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'mhc-compile\[safetensors\]'"):
        checkpoint.save(trained.state_dict(), tmp_path / "x.safetensors")
    with pytest.raises(MissingPackageError):
        checkpoint.load(tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())
