"""Models that are transformed on the meta device: where their hyper-connections get values."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import mhc_compile
from mhc_compile import pipeline
from mhc_compile.config import Config
from mhc_compile.errors import NotPreservingWarning, NotTransformedError
from mhc_compile.specs import all_specs
from tests.copies import copied
from tests.ranks import run_ranks
from tests.tables import also
from tests.toy_models import WIDTH, Block, Tower

X = torch.randn(2, 3, WIDTH, generator=torch.Generator().manual_seed(0))
PLAIN = Tower()


@copied
def without_memory(connection="mhc", **options):
    with torch.device("meta"):
        return mhc_compile.transform(
            Tower(), n=4, connection=connection, example_inputs=(X.to("meta"),), modes=("eval",), **options
        ).eval()


@copied
def in_memory():
    return mhc_compile.transform(copy.deepcopy(PLAIN), n=4, example_inputs=(X,), modes=("train",))


def emptied(model):
    """As `to_empty` leaves it, where memory held the worst."""
    model.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
    return model


@pytest.mark.parametrize("options", [{}, {"connection": "hc"}, {"reduce": "learned"}])
def test_a_plain_checkpoint_that_is_assigned_brings_the_initial_values_along(options, recwarn):
    twin = without_memory(**options)
    twin.hyper_connections.requires_grad_(False)
    twin.load_state_dict(PLAIN.state_dict(), assign=True)
    assert not [name for name, p in twin.named_parameters() if p.is_meta]
    assert not any(p.requires_grad for p in twin.hyper_connections.parameters())
    assert not [w for w in recwarn if w.category is NotPreservingWarning]
    torch.testing.assert_close(twin(X), PLAIN(X), rtol=1e-4, atol=1e-5)
    mhc_compile.revert(twin, strict=True)


def test_values_of_a_transformed_checkpoint_are_assigned_as_they_are():
    trained = in_memory()
    with torch.no_grad():
        trained.hyper_connections["blocks.0"].bias += 1
    twin = without_memory()
    twin.load_state_dict(trained.state_dict(), assign=True)
    assert torch.equal(twin.hyper_connections["blocks.0"].bias, trained.hyper_connections["blocks.0"].bias)


def test_a_stage_without_memory_gets_the_initial_values_of_its_sites():
    plain = nn.Sequential(Block(), Block(), Block())
    with torch.device("meta"):
        given = {"example_inputs": (X.to("meta"),), "modes": ("train",)}
        twin = mhc_compile.transform(copy.deepcopy(plain).to("meta"), n=4, **given)
    value = X
    for stage in pipeline.split(twin, ["1"], **given):
        stage.load_state_dict(plain.state_dict(), assign=True)
        value = stage(value)
    torch.testing.assert_close(value, plain(X), rtol=1e-4, atol=1e-5)


def test_after_to_empty_the_warning_says_what_to_write():
    twin = emptied(without_memory())
    with pytest.warns(NotPreservingWarning, match=r"since to_empty\(\).*write mhc_compile.reset_parameters\(model\)"):
        twin.load_state_dict(PLAIN.state_dict())
    mhc_compile.reset_parameters(twin)
    torch.testing.assert_close(twin(X), PLAIN(X), rtol=1e-4, atol=1e-5)


def test_resetting_a_trained_model_leaves_the_rest_of_it_alone():
    twin = in_memory()
    fresh = copy.deepcopy(twin.state_dict())
    parameters = list(twin.hyper_connections.parameters())
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter += 1
    mhc_compile.reset_parameters(nn.Sequential(twin))
    assert all(a is b for a, b in zip(parameters, twin.hyper_connections.parameters(), strict=True))
    changed = {name for name, value in twin.state_dict().items() if not torch.equal(value, fresh[name])}
    assert changed == {name for name, _ in PLAIN.named_parameters(remove_duplicate=False)}


def test_a_model_without_hyper_connections_of_transform_is_refused():
    with pytest.raises(NotTransformedError, match="pass the model that transform returned"):
        mhc_compile.reset_parameters(Tower())


def fill_shards(rank, folder, init):
    twin = without_memory(init=init)
    mesh = init_device_mesh("cpu", (2,))
    for block in twin.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(twin, mesh=mesh)
    torch.manual_seed(rank)
    mhc_compile.reset_parameters(emptied(twin))
    if init == "preserve":
        mhc_compile.revert(twin, strict=True)
    values = {name: p.full_tensor() for name, p in twin.hyper_connections.named_parameters()}
    torch.save(values, folder / f"{init}-{rank}.pt")


@pytest.mark.parametrize("init", ["random", *also("preserve")])  # the second draws nothing
def test_sharded_hyper_connections_get_the_same_values_on_all_processes(init, tmp_path):
    run_ranks(fill_shards, tmp_path, init)
    first, second = (torch.load(tmp_path / f"{init}-{rank}.pt") for rank in range(2))
    assert first and all(torch.equal(value, second[name]) for name, value in first.items())
    if init == "preserve":
        whole = in_memory().hyper_connections
        assert all(torch.equal(value, first[name]) for name, value in whole.named_parameters())


@pytest.mark.parametrize("connection", ["mhc", "hc", "mhc-lite"])
def test_a_device_that_is_set_around_the_call_has_no_part_in_it(connection):
    layer, inputs = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (torch.zeros(2, 3, 8),)
    config = Config(n=4, connection=connection)
    specs = all_specs([mhc_compile.plan(layer, n=4, example_inputs=inputs, connection=connection)], config)
    assert len(specs) == 2
    for spec in specs.values():
        want = spec.initial_values(torch.float32, "cpu")
        with torch.device("meta"):
            found, empty = spec.initial_values(torch.float32, "cpu"), spec.initial_values(torch.float32, "meta")
        assert all(torch.equal(found[name], value) and empty[name].is_meta for name, value in want.items())
