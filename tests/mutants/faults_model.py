"""Faults in capturing a model, in the transformed model, and in the backend of `torch.compile`."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

CAPTURE = (
    Mutant(
        "autocast is baked in",
        "capture",
        "stack.enter_context(torch.autocast(device, enabled=False))",
        "pass",
        ("tests/capture/test_trace.py::test_autocast_is_not_baked_in",),
    ),
    Mutant(
        "what a call changes besides its result is left out in silence",
        "capture",
        "            lasting(traced.changed),",
        "            (),",
        (
            "tests/capture/test_trace.py::test_what_a_call_changes_in_python_is_told_and_writes_into_buffers_are_none_of_it",
        ),
    ),
    Mutant(
        "conditions on sizes are forgotten",
        "capture",
        "        if symbols and symbols <= names:",
        "        if False:",
        ("tests/capture/test_input_spec.py::test_divisibility_is_guarded",),
    ),
    Mutant(
        "a size that two inputs share may differ",
        "capture",
        "                expected = sizes.setdefault(expected, size)\n",
        "                sizes[expected] = expected = size\n",
        ("tests/capture/test_input_spec.py::test_a_size_shared_by_two_inputs_must_be_shared",),
    ),
    Mutant(
        "True is served by the program of 1",
        "capture",
        "return type(value) is type(self.value) and bool(value == self.value)",
        "return bool(value == self.value)",
        ("tests/capture/test_input_spec.py::test_true_is_not_one",),
    ),
    Mutant(
        "what is transposed is taken for contiguous",
        "capture",
        "        if not _same(stride, step):\n            return False\n",
        "",
        ("tests/capture/test_quick_shapes.py",),
    ),
    Mutant(
        "statistics of half precision have its dtype",
        "capture",
        " or x.dtype not in _EXACT",
        "",
        ("tests/capture/test_quick_shapes.py",),
    ),
)

MODEL = (
    Mutant(
        "a program serves every mode",
        "model",
        "_holds_while_compiled(self, owner, index) if compiling else self.holds(program, owner)",
        "True",
        ("tests/model/test_kinds_of_calls.py::test_frozen_batch_norm_has_its_own_graph",),
    ),
    Mutant(
        "a program serves with and without gradients",
        "model",
        "if self.grad_mode is not None and self.grad_mode != torch.is_grad_enabled():",
        "if False:",
        ("tests/model/test_kinds_of_calls.py::test_gradient_mode_never_leaks",),
    ),
    Mutant(
        "a replaced submodule leaves the old program in place",
        "model",
        "            and [tuple(children.values()) for children in self._parents] == self._children\n",
        "",
        ("tests/twin/test_replaced_layers.py::test_a_layer_put_in_place_of_one_with_the_same_parameters_is_traced",),
    ),
    Mutant(
        "a program serves parameters of another dtype",
        "model",
        "return dtypes == self._dtypes and (devices",
        "return (devices",
        ("tests/model/test_kinds_of_calls.py::test_a_dtype_that_the_model_asks_its_parameters_for_is_no_constant",),
    ),
    Mutant(
        "blocks share code whatever it refers to",
        "model",
        "key = (code.src, *((name, id(value)) for name, value in sorted(code.globals.items())))",
        "key = code.src",
        ("tests/twin/test_hosts.py::test_blocks_that_read_alike_but_call_different_parts_have_code_of_their_own",),
    ),
    Mutant(
        "checkpointed regions share their policy",
        "model",
        "        key = (code, name, region)\n",
        "        key = (code, name)\n",
        ("tests/passes/graph/test_checkpointed.py::test_every_region_keeps_its_own_policy",),
    ),
    Mutant(
        "two sites of one host have one name",
        "model",
        'return f"own{site.removeprefix(host)}" if site.startswith(host) else f"of_{site}"',
        'return site.removeprefix(host).strip("_") or "own"',
        (
            "tests/twin/test_hosts.py::test_sites_that_share_a_host_have_their_own_parameters_whatever_its_modules_are_called",
        ),
    ),
    Mutant(
        "a copy shares the constants of its programs",
        "model",
        "if not p.holds_tensors and not p.reads.parallel]",
        "if not p.reads.parallel]",
        ("tests/model/test_copied_and_saved.py::test_deepcopy_does_not_share_constants",),
    ),
    Mutant(
        "what was left alone where a graph breaks is asked for where none does",
        "model",
        "    return [site.key for site in new if broken & ",
        "    return [site.key for site in () if broken & ",
        ("tests/model/test_derivatives.py::test_what_is_left_alone_where_gradients_are_recorded_is_so_without_them",),
    ),
    Mutant(
        "a late trace may need parameters nobody knows",
        "model",
        "        if shapes != {n: tuple(s) for n, s in spec.shapes.items()}:",
        "        if False:",
        ("tests/model/test_kinds_of_calls.py::test_call_that_needs_unknown_sites_is_an_error_that_says_what_to_do",),
    ),
    Mutant(
        "hooks that never fire are not warned of",
        "model",
        "    if known.called is not False:",
        "    if True:",
        ("tests/twin/test_hooks.py::test_a_hook_that_will_never_fire_is_warned_of",),
    ),
    Mutant(
        "branches called past the model are not told of",
        "model",
        "        if self._strict or not self._told:\n",
        "        if self._strict:\n",
        ("tests/model/test_branches.py::test_a_loop_of_the_users_own_over_branches_is_told_of_once",),
    ),
    Mutant(
        "methods that the example call did not run are no doors",
        "model",
        "    for path, name in summing.union(_naming(sites, modules)):\n",
        "    for path, name in summing:\n",
        ("tests/model/test_branches.py::test_a_method_that_the_example_call_did_not_run_has_the_hyper_connections",),
    ),
)

DYNAMO = (
    Mutant(
        "one weight of a site tells the modules apart",
        "dynamo",
        "    return [name for name in opened.inputs if name in looked_at]\n",
        "    return [site.weights[0] for site in plan.sites]\n",
        ("tests/test_changed_models.py",),
    ),
    Mutant(
        "blocks may change places unnoticed",
        "dynamo",
        "all(_module_at(alive, path) is there() for path, there in places)",
        "True",
        ("tests/test_changed_models.py",),
    ),
    Mutant(
        "what was rewritten for other names is taken again",
        "dynamo",
        "        key = (tuple(names.names.values()), names.foreign, names.tied)\n",
        "        key = names.foreign\n",
        ("tests/dynamo/test_graph_breaks.py::test_one_graph_for_all_blocks_takes_the_parameters_of_each",),
    ),
    Mutant(
        "an identity that is used again is taken for the old one",
        "dynamo",
        "        self._known.pop(key, None)\n",
        "",
        ("tests/dynamo/test_instances.py::test_an_identity_that_is_used_again_is_not_taken_for_the_old_one",),
    ),
    Mutant(
        "replaced hyper-connections leave the old ones in use",
        "dynamo",
        "            if current is not None and not current():\n",
        "            if False:\n",
        ("tests/dynamo/test_instances.py::test_slots_that_are_no_longer_the_models_are_learnt_anew",),
    ),
    Mutant(
        "keys behind a break start anew",
        "dynamo",
        "    taken = list(_taken_before(parts, origin))\n",
        "    taken: list[str] = []\n",
        ("tests/dynamo/test_graph_breaks.py::test_the_function_is_kept_and_every_site_is_found",),
    ),
    Mutant(
        "an add cut by a break has no reason of its own",
        "dynamo",
        "        return replace(r, detail=BROKEN_BRANCH) if unclear else r\n",
        "        return r\n",
        ("tests/dynamo/test_graph_breaks.py::test_a_residual_around_a_break_is_left_alone_and_the_report_says_why",),
    ),
    Mutant(
        "the last graph of a function is not announced",
        "dynamo",
        "    if number is not None and number + 1 >= limit and",
        "    if number is not None and number >= limit and",
        ("tests/dynamo/test_backend_modes.py::test_the_last_graph_before_dynamo_gives_up_is_announced",),
    ),
    Mutant(
        "globs that match nothing are not warned of",
        "dynamo",
        "            if not self.several:\n                warn_of_unmatched(self.records, self.config)\n",
        "",
        (
            "tests/dynamo/test_untaken.py::TestUntaken::test_globs_that_match_nothing_are_warned_of_with_the_words_of_transform",
        ),
    ),
    Mutant(
        "code for frozen parameters serves trained ones",
        "dynamo",
        "        trained = [i for i in frozen if inputs[i].requires_grad]\n",
        "        trained: list[int] = []\n",
        ("tests/dynamo/test_frozen.py::test_parameters_learn_as_soon_as_they_are_unfrozen",),
    ),
    Mutant(
        "an optimizer built before is not warned of",
        "dynamo",
        "        if trained and names:\n",
        "        if False:\n",
        ("tests/dynamo/test_attach.py::TestEarlyOptimizer::test_one_built_before_the_first_call_is_reported",),
    ),
    Mutant(
        "a value that is equal to another one is the same",
        "calls",
        "    if type(found) is not type(known):\n        return False\n",
        "",
        ("tests/programs/test_bound_attributes.py",),
    ),
)
