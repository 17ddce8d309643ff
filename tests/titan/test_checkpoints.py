"""What torchtitan loads: the plain model, others, and what is no checkpoint."""

from __future__ import annotations

import copy
import uuid
from dataclasses import replace

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn

pytest.importorskip("torchtitan")

from torch.distributed.checkpoint import HuggingFaceStorageWriter
from torchtitan.components.checkpointer import MODEL, ModelWrapper

from mhc_compile.errors import CheckpointMismatchError, UnreadableCheckpointError
from mhc_compile.torchtitan import CheckpointManager, with_hyper_connections
from tests.titan.test_spec import built, configured, moved, plain_of


@pytest.fixture
def made():
    spec = configured(layers=1).model_spec
    plain, config = plain_of(spec)
    plain.init_states()
    return spec, moved(built(spec)), plain, config


def load(spec, model, folder, **options):
    manager = object.__new__(CheckpointManager)  # as the trainer makes it, without what does not belong to the model
    manager.states = {MODEL: ModelWrapper([model])}
    manager.sd_adapter = spec.state_dict_adapter(spec.model, None)
    manager.dcp_load(model.state_dict(), str(folder), **{"from_hf": False, "from_quantized": False, **options})


def manager(spec, model, tmp_path):
    """As the trainer makes it, to write its last checkpoint for Hugging Face."""
    options = {"enable": True, "last_save_model_only": True, "last_save_in_hf": True, "async_mode": "disabled"}
    others = dict.fromkeys(("dataloader", "optimizers", "lr_schedulers"))
    adapter = spec.state_dict_adapter(spec.model, None)
    config = CheckpointManager.Config(**options)
    return CheckpointManager(
        config, model_parts=[model], states={}, sd_adapter=adapter, base_folder=str(tmp_path), **others
    )


def same(model, plain, own):
    state = model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in plain.state_dict().items())
    assert all(torch.equal(state[name], value) for name, value in own.items() if name.startswith("hyper_connections"))


def test_a_checkpoint_of_the_plain_model_leaves_new_parameters_as_they_are(made, tmp_path):
    spec, model, plain, _ = made
    dcp.save(plain.state_dict(), checkpoint_id=tmp_path, no_dist=True)
    own = copy.deepcopy(model.state_dict())
    load(spec, model, tmp_path)
    same(model, plain, own)


@pytest.mark.parametrize("with_streams", [False, True])
def test_a_folder_for_hugging_face_is_loaded_with_and_without_new_parameters(made, tmp_path, with_streams):
    spec, model, plain, config = made
    source = moved(moved(built(spec))) if with_streams else plain
    kind = spec.state_dict_adapter if with_streams else spec.state_dict_adapter.__mro__[1]
    state = kind(spec.model if with_streams else config, None).to_hf(source.state_dict())
    dcp.save(state, storage_writer=HuggingFaceStorageWriter(str(tmp_path)), no_dist=True)
    own = copy.deepcopy((source if with_streams else model).state_dict())
    load(spec, model, tmp_path, from_hf=True)
    same(model, source if with_streams else plain, own)


def test_other_streams_are_refused_before_anything_is_loaded(made, tmp_path):
    spec, model, _, config = made
    other = with_hyper_connections(replace(spec, model=config, state_dict_adapter=None), n=2)
    dcp.save(built(other).state_dict(), checkpoint_id=tmp_path, no_dist=True)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CheckpointMismatchError, match=r"n=2.*the model has"):
        load(spec, model, tmp_path)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_lacks_a_layer_is_unreadable(made, tmp_path):
    spec, model, *_ = made
    state = {name: value for name, value in model.state_dict().items() if "attention" not in name}
    dcp.save(state, checkpoint_id=tmp_path, no_dist=True)
    with pytest.raises(UnreadableCheckpointError, match="load a checkpoint of this model"):
        load(spec, model, tmp_path)


def test_a_site_without_a_name_there_is_an_error_before_anything_is_trained(made, tmp_path):
    spec, model, *_ = made
    manager(spec, model, tmp_path).close()
    model.hyper_connections.add_module("layers__0__attention__wo", nn.Linear(2, 2))
    with pytest.raises(CheckpointMismatchError, match="without a name in the other format"):
        manager(spec, model, tmp_path)


def test_checkpoints_lie_at_an_address(made):
    spec, model, *_ = made
    folder = f"memory://bucket-{uuid.uuid4().hex}/step-10"
    dcp.save(model.state_dict(), checkpoint_id=folder, no_dist=True)
    expected = copy.deepcopy(model.state_dict())
    load(spec, moved(model), folder)
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
