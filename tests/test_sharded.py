"""Checkpoints of several processes: what one writes another loads, and the wrong model is refused."""

from __future__ import annotations

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict
from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh
from torch.nn.parallel import DistributedDataParallel

import mhc_compile
from mhc_compile import sharded
from mhc_compile.errors import (
    CheckpointMismatchError,
    UnreadableCheckpointError,
)
from mhc_compile.twin.header import KEY
from tests.copies import copied
from tests.ranks import run_ranks
from tests.toy_models import WIDTH, Tower

X = torch.randn(2, 3, WIDTH, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _one_thread():
    """As in the other processes: PyTorch sums some gradients in another order on more threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@copied
def transformed(**options):
    torch.manual_seed(0)
    return mhc_compile.transform(Tower(), **{"n": 2, "example_inputs": (X,), "modes": ("train",), **options})


def trained(seed=0):
    model = transformed()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    optimizer = torch.optim.AdamW(model.parameters())
    model(X).square().sum().backward()
    optimizer.step()
    return model, optimizer


def states(model, optimizer):
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": 0}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def save_sharded(rank, folder):
    """Every matrix is split between the processes, as FSDP does."""
    mesh = init_device_mesh("cpu", (2,))
    model, optimizer = trained()
    state = states(model, optimizer)
    for name, value in state["model"].items():
        if value.dim() == 2 and len(value) > 1:
            state["model"][name] = distribute_tensor(value, mesh, [Shard(0)])
    sharded.save({**state, "step": 7}, folder / "two")


def load_in_two(rank, folder):
    model, optimizer = trained(seed=1)
    state = states(model, optimizer)
    sharded.load(state, folder / "one")
    model.load_state_dict(state["model"])
    assert equal(model.state_dict(), trained()[0].state_dict())
    assert state["step"] == 5
    for broken in ({**model.state_dict(), "more": torch.zeros(3)}, {"head.weight": torch.zeros(1, 1)}):
        with pytest.raises(UnreadableCheckpointError, match=r"process 0: .*process 1: "):  # on each of them
            sharded.load({"model": broken}, folder / "one")
    wrong = transformed(n=3).state_dict()
    with pytest.raises(CheckpointMismatchError):
        sharded.load({"model": wrong}, folder / "one")
    wrapped = DistributedDataParallel(transformed(), find_unused_parameters=True)
    names = get_model_state_dict(wrapped)
    assert KEY in names, "PyTorch's own tools strip the prefix of DistributedDataParallel"
    set_model_state_dict(wrapped, model.state_dict())
    assert equal(wrapped.module.state_dict(), model.state_dict())


def save_and_load(rank, folder):
    save_sharded(rank, folder)
    load_in_two(rank, folder)


@pytest.mark.slow
def test_two_processes_save_and_one_loads_and_the_other_way_round(tmp_path):
    sharded.save({**states(*trained()), "step": 5}, tmp_path / "one")
    run_ranks(save_and_load, tmp_path)
    assert len(list((tmp_path / "two").glob("*.distcp"))) == 2
    (model, optimizer), (expected, other) = trained(seed=1), trained()
    state = states(model, optimizer)
    sharded.load(state, tmp_path / "two")
    model.load_state_dict(state["model"], strict=True)
    optimizer.load_state_dict(state["optimizer"])
    assert equal(model.state_dict(), expected.state_dict())
    assert state["step"] == 7
    for mine, theirs in zip(optimizer.state.values(), other.state.values(), strict=True):
        assert equal(mine, theirs)


def test_pytorchs_own_functions_take_the_same_checkpoints(tmp_path):
    model, _ = trained()
    dcp.save(model.state_dict(), checkpoint_id=tmp_path / "a", no_dist=True)
    other = transformed()
    state = other.state_dict()
    dcp.load(state, checkpoint_id=tmp_path / "a", no_dist=True)
    other.load_state_dict(state, strict=True)
    assert equal(other.state_dict(), model.state_dict())


@pytest.mark.parametrize("options", [{"n": 3}, {"connection": "identity"}, {"connection": "hc-static"}])
def test_the_wrong_model_is_refused_before_anything_is_loaded(tmp_path, options):
    sharded.save({"model": trained()[0].state_dict()}, tmp_path / "a")
    state = {"model": transformed(**options).state_dict()}
    before = {name: value.clone() for name, value in state["model"].items()}
    with pytest.raises(CheckpointMismatchError, match=r"connection='mhc' with n=2.*the model has"):
        sharded.load(state, tmp_path / "a")
    assert equal(state["model"], before)


def test_a_checkpoint_of_the_original_model_is_upcycled(tmp_path):
    torch.manual_seed(5)
    plain, twin = Tower(), transformed()
    assert not torch.equal(plain.stem.weight, twin.stem.weight)
    sharded.save({"model": plain.state_dict()}, tmp_path / "plain")
    state = {"model": twin.state_dict()}
    sharded.load(state, tmp_path / "plain")
    twin.load_state_dict(state["model"], strict=True)
    assert torch.allclose(twin(X), plain(X), rtol=1e-4, atol=1e-5)


def test_a_missing_name_and_a_wrong_shape_are_errors(tmp_path):
    sharded.save({"a": torch.ones(3)}, tmp_path / "a")
    with pytest.raises(UnreadableCheckpointError, match=r"b.*written to its end"):
        sharded.load({"a": torch.zeros(3), "b": torch.zeros(1)}, tmp_path / "a")
    with pytest.raises(UnreadableCheckpointError, match=r"(?i)size"):
        sharded.load({"a": torch.zeros(4)}, tmp_path / "a")


def test_an_existing_checkpoint_is_not_overwritten(tmp_path):
    sharded.save({"a": torch.ones(3)}, tmp_path / "a")
    with pytest.raises(FileExistsError, match="folder of its own"):
        sharded.save({"a": torch.zeros(3)}, tmp_path / "a")
    state = {"a": torch.zeros(3)}
    sharded.load(state, tmp_path / "a")
    assert state["a"].sum() == 3
