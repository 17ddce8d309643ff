"""Groups that a recipe has made, and what is added to them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import mhc_compile
from mhc_compile.errors import InvalidOptionError
from tests.toy_models import WIDTH, Tower

X = torch.randn(2, 3, WIDTH)
groups_of = mhc_compile.parameter_groups


@pytest.fixture(scope="module")
def twin() -> nn.Module:
    return mhc_compile.transform(Tower(), n=2, example_inputs=(X,), modes=("train",))


@pytest.fixture(autouse=True)
def _trainable(twin: nn.Module) -> None:
    twin.requires_grad_(True)


def names(model: nn.Module, group: dict) -> list[str]:
    known = {id(p): name for name, p in model.named_parameters()}
    return [known[id(p)] for p in group["params"]]


def options(group: dict) -> dict:
    return {key: value for key, value in group.items() if key != "params"}


def new(model: nn.Module, *keys: str) -> set[str]:
    wanted = keys or ("phi", "alpha", "bias")
    found = [f"hyper_connections.{name}" for name, _ in model.hyper_connections.named_parameters()]
    return {name for name in found if name.rpartition(".")[2] in wanted}


def test_parameters_of_modules_get_their_hyper_connections_behind_them(twin: nn.Module) -> None:
    first, maps, static = groups_of(twin, groups=twin.blocks.parameters())
    assert names(twin, first) == [f"blocks.{name}" for name, _ in twin.blocks.named_parameters()] and not options(first)
    assert set(names(twin, maps)) == new(twin, "phi") and not options(maps)  # the optimizer's own options
    assert set(names(twin, static)) == new(twin, "alpha", "bias") and options(static) == {"weight_decay": 0.0}


def test_the_result_trains_everything_that_was_chosen_and_no_more(twin: nn.Module) -> None:
    optimizer = torch.optim.AdamW(groups_of(twin, groups=[twin.blocks.parameters()]), lr=0.1, weight_decay=0.3)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    chosen = [*twin.blocks.parameters(), *twin.hyper_connections.parameters()]
    assert held == {id(p) for p in chosen}
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.3, 0.0]


def test_each_block_keeps_its_learning_rate(twin: nn.Module) -> None:
    recipe = [
        {"params": block.parameters(), "lr": 0.1 * 0.5**i, "weight_decay": 0.2} for i, block in enumerate(twin.blocks)
    ]
    made = groups_of(twin, groups=recipe)
    assert [group["lr"] for group in made[:3]] == [0.1, 0.05, 0.025]
    for group in made[3:]:
        (block,) = {name.split(".")[1].removesuffix("__readout") for name in names(twin, group)}
        assert group["lr"] == 0.1 * 0.5 ** int(block[-1])
        assert group["weight_decay"] == (0.2 if "phi" in names(twin, group)[0] else 0.0)


def test_an_optimizer_for_matrices_gets_maps_only(twin: nn.Module) -> None:
    matrices = [p for p in twin.blocks.parameters() if p.ndim >= 2]
    rest = [p for p in twin.parameters() if p.ndim < 2 or p is twin.stem.weight or p is twin.unused.weight]
    recipe = [{"params": matrices, "use_muon": True}, {"params": rest, "use_muon": False}]
    made = groups_of(twin, groups=recipe)
    assert {name for g in made[2:] if g["use_muon"] for name in names(twin, g)} == new(twin, "phi")
    torch.optim.Muon([group for group in made if group["use_muon"]])
    assert sum(len(group["params"]) for group in made) == len(list(twin.parameters()))


def test_vectors_go_to_no_optimizer_for_matrices_if_there_is_no_other(twin: nn.Module) -> None:
    recipe = [{"params": [p for p in twin.blocks.parameters() if p.ndim >= 2], "use_muon": True}]
    maps, static = groups_of(twin, groups=recipe)[1:]
    assert set(names(twin, maps)) == new(twin, "phi") and maps["use_muon"]
    assert set(names(twin, static)) == new(twin, "alpha", "bias") and options(static) == {"weight_decay": 0.0}


def test_what_a_recipe_has_already_is_not_given_twice(twin: nn.Module) -> None:
    assert len(groups_of(twin, groups=[twin.parameters()])) == 1
    half = [*twin.blocks.parameters(), twin.hyper_connections["blocks.0"].phi]
    added = [name for group in groups_of(twin, groups=[half])[1:] for name in names(twin, group)]
    assert set(added) == new(twin) - {"hyper_connections.blocks__0.phi"} and len(added) == len(set(added))


def test_frozen_hyper_connections_are_left_out(twin: nn.Module) -> None:
    twin.hyper_connections.requires_grad_(False)
    assert len(groups_of(twin, groups=twin.blocks.parameters())) == 1


def test_without_anything_to_go_by_they_have_the_weight_decay_that_is_given(twin: nn.Module) -> None:
    maps, static = groups_of(twin, 0.25, groups=[])
    assert options(maps) == {"weight_decay": 0.25} and options(static) == {"weight_decay": 0.0}


def test_groups_with_names(twin: nn.Module) -> None:
    made = groups_of(twin, groups=[{"params": twin.blocks.named_parameters(prefix="blocks")}])
    optimizer = torch.optim.AdamW(made)
    assert set(optimizer.param_groups[1]["param_names"]) == new(twin, "phi")


def test_groups_of_an_optimizer_that_exists(twin: nn.Module) -> None:
    optimizer = torch.optim.SGD(twin.blocks.parameters(), 0.1, weight_decay=0.2)
    for group in groups_of(twin, groups=optimizer.param_groups)[1:]:
        optimizer.add_param_group(group)
    assert [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [(0.1, 0.2), (0.1, 0.2), (0.1, 0.0)]


def test_behind_a_backend_and_inside_another_module() -> None:
    model, backend = Tower(), mhc_compile.backend(n=2, inner="eager")
    backend.attach(model, (X,), modes=("train",))
    whole = nn.ModuleDict({"net": model})
    made = groups_of(whole, groups=[{"params": model.blocks.parameters(), "lr": 3}])
    assert {name for group in made[1:] for name in names(whole, group)} == {f"net.{name}" for name in new(model)}
    assert all(group["lr"] == 3 for group in made)


def test_a_model_without_hyper_connections_has_missed_none() -> None:
    model = Tower()
    assert len(groups_of(model, groups=[model.blocks.parameters()])) == 1


@pytest.mark.parametrize(
    "groups",
    [3, "blocks", {"params": []}, torch.ones(2), [3], ["blocks"], [{"lr": 1}], [{"params": "blocks"}], [[1.0]]],
)
def test_something_else_than_groups(twin: nn.Module, groups: object) -> None:
    with pytest.raises(InvalidOptionError, match=r"model\.blocks\.parameters"):
        groups_of(twin, groups=groups)


def test_groups_of_another_model_are_refused(twin: nn.Module) -> None:
    with pytest.raises(InvalidOptionError, match="no parameter of this Tower"):
        groups_of(twin, groups=[Tower().parameters()])
    assert len(groups_of(twin, groups=[*twin.blocks.parameters(), *Tower().parameters()])) > 1  # one optimizer for two


def test_groups_in_the_place_of_weight_decay_are_named_and_not_printed(twin: nn.Module) -> None:
    with pytest.raises(InvalidOptionError, match=r"weight_decay is <class 'list'>.* go into groups=\.\.\.$"):
        groups_of(twin, list(twin.blocks.parameters()))
