from __future__ import annotations

import pytest

from mhc_compile.passes.plan.keys import Owner, common_path, former_keys, identifier, keys_of, module_of, unique


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


def owner(*weights, caller=""):
    return Owner(weights, tuple(w.rpartition(".")[0] for w in weights), caller)


A, B, C = owner("a.0.w", "b.0.w"), owner("a.1.w", "b.1.w"), owner("a.2.w", "b.2.w")
ATTENTION, MLP = owner("h.0.q.w", "h.0.k.w"), owner("h.0.up.w", "h.0.down.w")


@pytest.mark.parametrize(("owners", "keys"), [
    ([A, B, C], ["b.0", "b.1", "b.2"]), ([C, A], ["b.2", "b.0"]), ([B], ["b.1"]),
    ([ATTENTION, MLP], ["h.0.k", "h.0.down"]), ([MLP], ["h.0"]), ([MLP, MLP], ["h.0", "h.0#2"]),
    ([owner("h.in_proj"), owner("h.out.w", "h.in.w")], ["h.in_proj", "h.in"]), ([owner("w")], ["w"]),
    ([owner("s.w", "x.0.w"), owner("s.w", "x.1.w")], ["x.0", "x.1"]), ([owner("s.w", "t.w"), owner("s.w")], ["t", "s"]),
    ([owner(caller="blocks.1"), owner()], ["blocks.1", "site"]),
])  # fmt: skip
def test_keys_follow_weights_not_positions(owners, keys):
    assert keys_of(owners) == keys


def known(owners):
    return [(key, o.weights) for key, o in zip(keys_of(owners), owners, strict=True)]


@pytest.mark.parametrize(("first", "later", "keys"), [
    ([ATTENTION, MLP], [MLP], ["h.0.down"]),
    ([MLP], [ATTENTION, MLP], ["h.0.k", "h.0"]),
    ([MLP, MLP], [MLP], ["h.0"]),
    ([MLP], [owner("h.0.up.w", "h.0.up.lora.w", "h.0.down.w")], ["h.0"]),
    ([A, B, C], [C, B, A], ["b.2", "b.1", "b.0"]),
    ([ATTENTION, MLP], [owner("g.w")], ["g"]),
])  # fmt: skip
def test_another_trace_takes_the_keys_that_the_weights_have(first, later, keys):
    assert keys_of(later, known=known(first)) == keys


def test_former_keys_are_positions_among_equal_paths():
    assert former_keys([A, B, owner(caller="m"), ATTENTION, MLP]) == ["site", "site#2", "m", "h.0", "h.0#2"]


def test_a_branch_that_begins_with_the_weights_of_the_one_before_has_the_key_of_its_end():
    chain = [Owner(("a.x", "a.y"), ("a", "a"), ""), Owner(("a.x", "a.y", "b.x", "b.y"), ("a", "a", "b", "b"), ""),
             Owner(("b.x", "b.y", "c.x", "c.y"), ("b", "b", "c", "c"), "")]  # fmt: skip
    assert keys_of(chain) == ["a", "b", "c"] and keys_of(chain[1:]) == ["b", "c"]


def test_a_branch_that_ends_in_a_weight_of_others_has_the_key_of_the_last_of_its_own():
    tied = [Owner((f"{n}.x", "out.w"), (n, "out"), "") for n in "abc"]
    assert keys_of(tied) == ["a", "b", "c"] and keys_of(tied[1:]) == ["b", "c"]


def shared(*vectors):
    return Owner(("block.w",), ("block",), "", ("block.b", *vectors))


@pytest.mark.parametrize(("owners", "keys"), [
    ([shared("norms.0.g"), shared("norms.1.g")], ["norms.0", "norms.1"]),
    ([shared("norms.1.g", "norms.1.b"), shared("norms.0.g", "norms.0.b")], ["norms.1", "norms.0"]),
    ([shared("scales.0"), shared("scales.1"), shared("scales.2")], ["scales.0", "scales.1", "scales.2"]),
    ([shared("norms.0.g"), shared()], ["block", "block#2"]), ([shared(), shared()], ["block", "block#2"]),
    ([shared("norms.0.g")], ["block"]),
])  # fmt: skip
def test_turns_of_a_shared_block_are_told_apart_by_what_each_has_of_its_own(owners, keys):
    assert keys_of(owners) == keys


def test_a_turn_that_is_left_out_leaves_the_keys_of_others():
    turns = [shared(f"norms.{i}.g") for i in range(3)]
    known = [(key, ("block.w", f"norms.{i}.g")) for i, key in enumerate(keys_of(turns))]
    for left, found in (([2], ["norms.2"]), ([2, 0], ["norms.2", "norms.0"]), ([1, 1], ["norms.1", "norms.1#2"])):
        assert keys_of([turns[i] for i in left], known=known) == found
