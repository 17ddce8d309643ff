from __future__ import annotations

import copy
import functools
import pickle

import pytest
import torch
from torch import nn

import mhc_compile
from mhc_compile.errors import InvalidOptionError, NotAModuleError
from tests.toy_models import WIDTH, Tokens, Tower


@pytest.fixture(scope="module")
def twin():
    return mhc_compile.transform(Tower(), n=2, example_inputs=(torch.randn(2, 3, WIDTH),), modes=("train",))


def names(model, group):
    return {name for name, p in model.named_parameters() for q in group["params"] if p is q}


def test_every_parameter_is_in_exactly_one_group(twin):
    decay, rest = mhc_compile.parameter_groups(twin, weight_decay=0.2)
    assert (decay["weight_decay"], rest["weight_decay"]) == (0.2, 0.0)
    ids = [id(p) for group in (decay, rest) for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in twin.parameters())


def test_only_matrices_decay(twin):
    decay, rest = mhc_compile.parameter_groups(twin)
    assert {"blocks.0.up.weight", "stem.weight"} <= names(twin, decay)
    assert {"blocks.0.up.bias", "blocks.0.norm.weight"} <= names(twin, rest)
    key = twin.mhc_plan.sites[0].key
    connection = twin.hyper_connections[key]
    assert any(connection.phi is p for p in decay["params"])
    assert all(any(q is p for p in rest["params"]) for q in (connection.alpha, connection.bias))


def test_static_matrices_of_hyper_connections_do_not_decay():
    twin = of("hc")
    decaying = names(twin, mhc_compile.parameter_groups(twin)[0])
    new = {name for name, _ in twin.named_parameters() if name.startswith("hyper_connections.")}
    static = {name for name in new if name.rpartition(".")[2].startswith(("static_", "scale", "bias", "alpha"))}
    assert static and not static & decaying


def test_frozen_parameters_are_left_out():
    model = Tower()
    model.stem.requires_grad_(False)
    assert sum(len(g["params"]) for g in mhc_compile.parameter_groups(model)) == len(list(model.parameters())) - 2


def test_an_optimizer_takes_the_groups(twin):
    torch.optim.AdamW(mhc_compile.parameter_groups(twin), lr=1e-3).zero_grad()


@pytest.mark.parametrize("value", [-0.1, True, "0.1", None])
def test_weight_decay_out_of_its_domain(value):
    with pytest.raises(InvalidOptionError, match="write a number"):
        mhc_compile.parameter_groups(Tower(), weight_decay=value)


def test_groups_of_something_else_than_a_module():
    with pytest.raises(NotAModuleError, match="got a int"):
        mhc_compile.parameter_groups(3)


CONNECTIONS = ("mhc", "mhc-single-pass", "mhc-lite", "circulant", "identity", "hc", "hc-static")


@functools.cache
def of(connection):
    given = {"n": 3, "connection": connection, "reduce": "learned", "modes": ("train",)}
    return mhc_compile.transform(Tower(), example_inputs=(torch.randn(2, 3, WIDTH),), **given)


def new(model, parameters):
    """Names of those that belong to hyper-connections."""
    ids = {id(p) for p in parameters}
    return {name for name, p in model.hyper_connections.named_parameters() if id(p) in ids}


@pytest.mark.parametrize("connection", CONNECTIONS)
def test_the_trainer_of_transformers_decays_what_parameter_groups_does(connection, tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    model = of(connection)
    args = transformers.TrainingArguments(output_dir=tmp_path, weight_decay=0.1, use_cpu=True, report_to=[])
    groups = transformers.Trainer(model=model, args=args).create_optimizer().param_groups
    decayed = [p for group in groups if group["weight_decay"] for p in group["params"]]
    wanted = new(model, mhc_compile.parameter_groups(model)[0]["params"])
    assert new(model, decayed) == wanted and wanted


@pytest.mark.parametrize("again", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), nn.Module.double])
def test_names_are_known_to_trainers_after_copies_pickles_and_casts(again):
    names = pytest.importorskip("transformers.trainer_pt_utils").get_parameter_names
    model = of("mhc")
    found = {
        name
        for name in names(again(copy.deepcopy(model)), [nn.LayerNorm], ["bias"])
        if name.startswith("hyper_connections.")
    }
    assert found == {
        f"hyper_connections.{name}" for name, p in model.hyper_connections.named_parameters() if "phi" in name
    }


def test_names_are_plain_text_for_everybody_else(twin):
    names = [*dict(twin.named_parameters()), *twin.state_dict()]
    assert "hyper_connections.blocks__0.alpha" in names and {type(name) for name in names} == {str}
    assert not any(name.lower() != name for name in names if name.startswith("hyper"))


@pytest.mark.parametrize("connection", CONNECTIONS)
def test_optimizers_of_timm_decay_what_parameter_groups_does(connection):
    optim = pytest.importorskip("timm.optim")
    model = of(connection)
    groups = optim.create_optimizer_v2(model, "adamw", lr=0.1, weight_decay=0.1).param_groups
    decayed = [p for group in groups if group["weight_decay"] for p in group["params"]]
    assert new(model, decayed) == new(model, mhc_compile.parameter_groups(model)[0]["params"])


def test_what_a_model_of_timm_spares_is_spared_still():
    class Own(Tower):
        def no_weight_decay(self):
            return {"stem.weight"}

    given = {"example_inputs": (torch.randn(2, 3, WIDTH),), "modes": ("train",)}
    model = mhc_compile.transform(Own(), n=2, connection="hc", **given)
    assert {"stem.weight", "hyper_connections.blocks__0.static_res"} <= model.no_weight_decay()


@pytest.mark.usefixtures("without_kernels")
@pytest.mark.parametrize("connection", CONNECTIONS)
def test_matrices_are_what_muon_takes(connection):
    model = of(connection)
    matrices, decaying, rest = mhc_compile.parameter_groups(model, matrices=True)
    found = names(model, matrices)
    assert {"blocks.0.up.weight", "blocks.2.down.weight"} <= found
    assert new(model, matrices["params"]) == new(model, mhc_compile.parameter_groups(model)[0]["params"])
    assert names(model, decaying) == {"stem.weight", "unused.weight"}
    assert (matrices["weight_decay"], decaying["weight_decay"], rest["weight_decay"]) == (0.1, 0.1, 0.0)
    assert sum(len(g["params"]) for g in (matrices, decaying, rest)) == len(list(model.parameters()))
    model(torch.randn(2, 3, WIDTH)).sum().backward()
    for optimizer in (torch.optim.Muon([matrices], lr=0.1), torch.optim.AdamW([decaying, rest], lr=0.1)):
        optimizer.step()


def test_matrices_behind_a_backend_and_inside_another_module():
    model, backend = Tokens(), mhc_compile.backend(n=2, inner="eager")
    backend.attach(model, (torch.zeros(2, 3, dtype=torch.long),), modes=("train",))
    whole = nn.Sequential(model)
    found = names(whole, mhc_compile.parameter_groups(whole, matrices=True)[0])
    assert {"0.blocks.1.down.weight", "0.hyper_connections.blocks__0.phi"} <= found and "0.embed.weight" not in found


def test_matrices_of_a_model_without_hyper_connections_leave_out_tables():
    class Output(Tokens):
        def __init__(self):
            super().__init__()
            self.out, self.conv = nn.Linear(WIDTH, 11), nn.Conv1d(2, 2, 3)

        def get_output_embeddings(self):
            return self.out

    model = Output()
    found = names(model, mhc_compile.parameter_groups(model, matrices=True)[0])
    assert found == {f"blocks.{i}.{name}.weight" for i in (0, 1) for name in ("up", "down")}


def test_matrices_and_groups_exclude_each_other(twin):
    with pytest.raises(InvalidOptionError, match="without groups"):
        mhc_compile.parameter_groups(twin, matrices=True, groups=[])
