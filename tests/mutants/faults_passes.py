"""Faults in what rewrites residual connections and fuses the steps."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

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
