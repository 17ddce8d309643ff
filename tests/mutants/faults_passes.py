"""Faults in what finds residual connections, rewrites them and fuses the steps."""

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

REWRITE = (
    Mutant(
        "a subtracted branch is added",
        "rewrite",
        "operator.sub if name in site.negated else operator.add",
        "operator.add",
        ("tests/passes/rewrite/test_rewrite.py::test_function_is_preserved",),
    ),
    Mutant(
        "coefficients see the axis of the add at the base",
        "rewrite",
        "self._coefficients(site, self.nodes[site.base], site.base_axis)",
        "self._coefficients(site, self.nodes[site.base], site.channel_axis)",
        ("tests/passes/rewrite/test_rewrite.py::test_function_is_preserved",),
    ),
    Mutant(
        "a learned readout has its channels last",
        "rewrite",
        '{"how": how, "axis": readout.channel_axis}',
        '{"how": how, "axis": -1}',
        ("tests/passes/rewrite/test_rewrite.py::test_pictures_are_read_out_with_their_channels_in_front",),
    ),
    Mutant(
        "an operand beside the streams is taken for streams",
        "rewrite",
        "return operand in self.streams and (lifted.name, operand.name) not in self.sides",
        "return operand in self.streams",
        ("tests/passes/rewrite/test_rewrite.py::test_function_is_preserved",),
    ),
    Mutant(
        "the axis before the first counts from the end",
        "rewrite",
        "    return axis + 1 if axis >= 0 else axis\n",
        "    return axis + 1 if axis > 0 else axis\n",
        ("tests/passes/lift/test_lifting.py::test_lifted_op_does_to_each_stream_what_it_did_to_the_tensor",),
    ),
    Mutant(
        "streams and samples change places where they are folded",
        "rewrite",
        '    return graph.call_method("unflatten", (result, 0, (n, -1)))\n',
        '    return graph.call_method("transpose", (graph.call_method("unflatten", (result, 0, (-1, n))), 0, 1))\n',
        ("tests/passes/lift/test_lifting.py::test_lifted_op_does_to_each_stream_what_it_did_to_the_tensor",),
    ),
    Mutant(
        "what follows a lifted value reads the original",
        "rewrite",
        "            for readout in segment.readouts:\n",
        "            for readout in segment.readouts[-1:]:\n",
        ("tests/passes/rewrite/test_rewrite.py::test_function_is_preserved",),
    ),
    Mutant(
        "a call begins where its write is",
        "rewrite",
        "        home = common([written[key], *readers])\n",
        "        home = written[key]\n",
        ("tests/twin/test_hosts.py::test_a_module_whose_branch_begins_outside_of_it_is_called_all_the_same",),
    ),
)

FUSE = (
    Mutant(
        "a boundary lies between two checkpointed blocks",
        "fuse",
        "    if nodes[site.add].meta.get(CHECKPOINT) != nodes[source.add].meta.get(CHECKPOINT):\n",
        "    if False:\n",
        ("tests/passes/rewrite/test_fuse.py::test_sites_of_different_checkpointed_blocks_stay_apart",),
    ),
    Mutant(
        "a boundary lies between sites whose channels lie on different axes",
        "fuse",
        "    if site.base_axis != source.channel_axis:\n",
        "    if False:\n",
        ("tests/passes/rewrite/test_fuse.py::test_sites_that_mix_over_different_axes_stay_apart",),
    ),
    Mutant(
        "two gates are part of one write",
        "fuse",
        "    if source.key in taken:\n",
        "    if False:\n",
        ("tests/passes/rewrite/test_fuse.py::test_the_second_reader_of_a_write_has_a_gate_of_its_own",),
    ),
    Mutant(
        "a learned readout is part of the last write",
        "fuse",
        "        if readout is None or is_learned(readout, self.config):\n",
        "        if readout is None:\n",
        ("tests/passes/rewrite/test_fuse.py::test_a_learned_readout_needs_the_streams",),
    ),
    Mutant(
        "a summed readout is a mean",
        "fuse",
        'call = self._writing(write, step, "leave", at=readout, how=readout.kwargs["how"])',
        'call = self._writing(write, step, "leave", at=readout, how="mean")',
        ("tests/passes/rewrite/test_fuse.py::test_a_sum_of_the_streams_is_part_of_the_last_write",),
    ),
    Mutant(
        "a site of moved axes is fused",
        "fuse",
        "    if site.moves_axes or site.base_axis != site.channel_axis:\n",
        "    if site.base_axis != site.channel_axis:\n",
        ("tests/passes/rewrite/test_fuse.py::test_a_site_whose_tokens_change_their_order_is_not_fused",),
    ),
    Mutant(
        "a group of restored sites is one too long",
        "fuse",
        "    if history.sites >= size or",
        "    if history.sites > size or",
        ("tests/passes/rewrite/test_recompute.py::test_the_first_step_of_a_group_keeps_its_streams",),
    ),
    Mutant(
        "read weights of single-pass have no size where a stage ends",
        "rewrite",
        "if self.authors is not None and example is not None:",
        "if False:",
        ("tests/test_pipeline_borders.py::test_read_weights_of_single_pass_cross_with_the_streams",),
    ),
    Mutant(
        "a plan says nothing of a connection that does not keep the function",
        "rewrite",
        'if why and config.init == "preserve" and plan.sites:',
        "if False:",
        (
            "tests/test_connection_options.py::test_gated_keeps_the_function_where_branches_begin_with_a_norm"
            "_and_says_where_not",
        ),
    ),
)
