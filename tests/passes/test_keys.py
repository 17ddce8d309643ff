from __future__ import annotations

import pytest

from mhc_compile.passes.keys import common_path, identifier, module_of, unique


def test_a_parameter_belongs_to_its_module():
    assert module_of("layers.0.fc.weight") == "layers.0.fc"
    assert module_of("weight") == "" and module_of("layers.0.fc", is_module=True) == "layers.0.fc"


@pytest.mark.parametrize(("paths", "expected"), [
    (["a.b.c", "a.b.d"], "a.b"), (["a.b", "a.b"], "a.b"), (["a.b", "a.b.c"], "a.b"), (["a", "b"], ""), ([], ""),
    (["layers.1", "layers.10"], "layers"),
])  # fmt: skip
def test_common_path(paths, expected):
    assert common_path(paths) == expected


def test_repeated_keys_are_numbered_in_order():
    assert unique(["a", "b", "a", "a"]) == ["a", "b", "a#2", "a#3"]


@pytest.mark.parametrize(("key", "expected"), [
    ("layers.0.mlp", "layers__0__mlp"), ("layers.0.mlp#2", "layers__0__mlp_use2"), ("0.mlp", "_0__mlp"),
    ("a-b", "a_b"), ("site", "site"), ("a.readout#12", "a__readout_use12"),
])  # fmt: skip
def test_identifier(key, expected):
    assert identifier(key) == expected and identifier(key).isidentifier()


def test_identifiers_of_the_uses_of_one_layer_differ():
    assert len({identifier(key) for key in unique(["f"] * 12)}) == 12


def test_keys_taken_by_other_graphs_are_numbered_on():
    assert unique(["a", "b", "a"], ["a", "a#2"]) == ["a#3", "b", "a#4"]


@pytest.mark.parametrize("name", ["a.fc.weight", "a.fc.parametrizations.weight.original0"])
def test_a_parametrized_weight_belongs_to_the_layer_that_it_is_a_weight_of(name):
    assert module_of(name) == "a.fc"
    assert module_of("parametrizations.weight.original") == ""
    assert module_of("a.fc.parametrizations.weight.0", is_module=True) == "a.fc"
