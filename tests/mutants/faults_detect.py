"""Deliberate faults in detection, and the tests that must notice them."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

DETECT = (
    Mutant(
        "two nodes apart is not reached",
        "detect",
        "                if j >= source:\n",
        "                if j > source:\n",
        ("tests/passes/graph/test_ancestry.py::test_reach_and_between_are_those_of_networkx",),
    ),
    Mutant(
        "a chain behind a norm is another tower than the long skip around it",
        "detect",
        "        start.add(links[outer.add].source)\n",
        "        pass\n",
        ("tests/test_fuzz.py::test_the_number_of_sites_counted_by_hand",),
    ),
    Mutant(
        "a subtracted skip is a skip",
        "detect",
        "if isinstance(skip, Skip) and any(o.negated for o in total.operands if o.node == skip.operand):",
        "if False:",
        ("tests/passes/detect/test_residuals.py::test_reasons",),
    ),
    Mutant(
        "a skip may come back five times",
        "detect",
        "if len(adds) <= _MAX_LEVELS or",
        "if len(adds) <= _MAX_LEVELS + 1 or",
        ("tests/passes/detect/test_residuals.py::test_a_value_that_is_added_in_five_layers_is_no_skip",),
    ),
    Mutant(
        "what comes back often is a bias, the first value of a stream too",
        "detect",
        "    return not is_first or through_weight(graph.reach(adds[0], adds[1]))\n",
        "    return True\n",
        ("tests/passes/test_injections.py::test_a_value_injected_into_many_layers_costs_not_even_the_first_site",),
    ),
    Mutant(
        "parts of a stacked parameter are one weight",
        "detect",
        "            weights.setdefault(part_of(self.graph, i, weight, stream), module)\n",
        "            weights.setdefault(weight, module)\n",
        ("tests/passes/detect/test_parts.py::test_a_layer_that_is_left_out_leaves_the_keys_of_others",),
    ),
    Mutant(
        "a sum of streams and their mixture has a skip",
        "detect",
        "            if weighted and _sides_independent(graph, base, lifts):\n",
        "            if weighted:\n",
        ("tests/passes/detect/test_skips.py::test_find_skip_rejects_sums_without_an_identity_path",),
    ),
    Mutant(
        "a write through a view of an input or buffer is unseen",
        "detect",
        'return any(a.op in ("placeholder", "get_attr") or _used_after(a, here, order, node) for a in others)',
        "return any(_used_after(a, here, order, node) for a in others)",
        (
            "tests/passes/graph/test_normalise.py::test_a_write_through_a_view_of_an_input_reaches_it",
            "tests/passes/graph/test_normalise.py::test_a_write_through_a_view_of_a_buffer_reaches_it",
        ),
    ),
    Mutant(
        "what was seen before a write is as it was after it",
        "detect",
        "    others = [a for a in aliases(target) - {target, node} if order.get(a, here) < here]\n",
        "    others = []\n",
        ("tests/passes/graph/test_normalise.py::test_a_write_that_is_seen_elsewhere_is_left_alone",),
    ),
    Mutant(
        "a write on a lifted value does not matter",
        "detect",
        "    touched = mutated & {skip.base, *skip.lifts, *total.adds}\n",
        "    touched = mutated & {skip.base, *total.adds}\n",
        ("tests/passes/detect/test_residuals.py::test_a_write_on_what_the_skip_is_lifted_to_is_rejected",),
    ),
    Mutant(
        "a permutation is followed the wrong way round",
        "detect",
        "        return tuple(axes[a] for a in order)\n",
        "        return tuple(axes[order.index(a)] for a in range(len(order)))\n",
        ("tests/passes/detect/test_channels.py::test_permutations_inside_the_branch_are_followed",),
    ),
    Mutant(
        "of two axes of a size the last has the channels",
        "detect",
        "    if not shape or (axis < len(shape) and shape[axis] == channels):\n",
        "    if not shape:\n",
        ("tests/passes/detect/test_channels.py::test_of_two_axes_of_its_size_the_one_of_the_site_has_the_channels",),
    ),
    Mutant(
        "a readout has its channels where its site has them",
        "detect",
        "    return found.index(axis) if axis in found else axis\n",
        "    return axis\n",
        ("tests/passes/detect/test_channels.py::test_a_readout_behind_a_permutation_follows_its_channels",),
    ),
    Mutant(
        "a view is followed from the wrong end",
        "detect",
        "        result[-i] = axes[-i]\n",
        "        result[-i] = axes[i - 1]\n",
        ("tests/passes/detect/test_channels.py::test_a_view_of_the_tokens_leaves_the_channels_where_they_are",),
    ),
    Mutant(
        "adds of segments that are too short are not listed",
        "detect",
        "sorted([*choice.rejected, *short], key=lambda r: r.add)",
        "sorted(choice.rejected, key=lambda r: r.add)",
        ("tests/passes/decide/test_planner.py::test_min_sites_leaves_short_segments_alone",),
    ),
    Mutant(
        "adds in bodies inside of bodies are not listed",
        "detect",
        "    for _, inner in hidden_adds(graph):\n",
        "    for _, inner in ():\n",
        ("tests/passes/graph/test_subgraphs.py::test_every_add_in_a_body_is_left_alone_with_the_name_of_its_operator",),
    ),
)
