"""Faults in checkpoints, and where there are several processes."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

CHECKPOINT = (
    Mutant(
        "a later format is read",
        "checkpoint",
        "        if version > FORMAT:\n",
        "        if version > FORMAT + 1:\n",
        ("tests/twin/test_header.py", "tests/test_checkpoint.py::test_a_later_format_is_refused"),
    ),
    Mutant(
        "a transformed model takes any other",
        "checkpoint",
        "        Header.from_tensor(state[name], name).check(wanted)\n",
        "        Header.from_tensor(state[name], name)\n",
        ("tests/test_checkpoint.py::test_the_wrong_model_is_refused_before_anything_is_loaded",),
    ),
    Mutant(
        "an adapter of other sites is taken",
        "checkpoint",
        "            check_adapter(state_dict, prefix)\n",
        "",
        ("tests/test_adapters.py::test_an_adapter_of_other_sites_is_refused",),
    ),
    Mutant(
        "names of hyper-connections go through those of earlier versions of a model",
        "checkpoint",
        "            given[_RENAMED] = False\n",
        "            pass\n",
        ("tests/pretrained/test_round_trip.py::test_weights_are_written_under_their_own_names",),
    ),
    Mutant(
        "headers of different readouts fit",
        "checkpoint",
        'return self.connection, self.n, self.reduce if self.n > 1 else ""',
        'return self.connection, self.n, ""',
        ("tests/twin/test_header.py",),
    ),
    Mutant(
        "a save that fails leaves a file beside",
        "checkpoint",
        "        beside.unlink(missing_ok=True)\n",
        "",
        ("tests/test_checkpoint_on_disk.py::test_a_save_that_fails_leaves_the_previous_file_and_nothing_else",),
    ),
    Mutant(
        "a file is put in place before the disk has it",
        "checkpoint",
        "            os.fsync(file.fileno())\n",
        "            pass\n",
        ("tests/test_checkpoint_on_disk.py",),
    ),
    Mutant(
        "trained values beside a plain checkpoint are not warned of",
        "checkpoint",
        "    warn_of_trained(owner)\n",
        "",
        ("tests/test_checkpoint.py::test_a_plain_checkpoint_beside_trained_hyper_connections_is_a_warning",),
    ),
    Mutant(
        "values that are no numbers have not moved",
        "checkpoint",
        "return None if bool((difference <= allowed).all()) else float(difference.max())",
        "return None if not bool((difference > allowed).any()) else float(difference.max())",
        ("tests/model/test_preserved.py::test_values_that_are_no_numbers_have_moved",),
    ),
    Mutant(
        "sites of the second mode are not checked",
        "checkpoint",
        'all_specs(model._mhc.plans, replace(config, init="preserve"))',
        'all_specs(model._mhc.plans[:1], replace(config, init="preserve"))',
        ("tests/model/test_preserved.py::test_sites_of_the_second_mode_are_checked_too",),
    ),
)

DISTRIBUTED = (
    Mutant(
        "a sharded checkpoint of another model is loaded",
        "distributed",
        "            Header.from_tensor(found[path], path).check(Header.from_tensor(header, path))\n",
        "",
        ("tests/test_sharded.py::test_the_wrong_model_is_refused_before_anything_is_loaded",),
    ),
    Mutant(
        "a sharded checkpoint is overwritten",
        "distributed",
        "        return self.fs.exists(self.fs.concat_path(self.path, _METADATA))\n",
        "        return False\n",
        ("tests/test_sharded.py::test_an_existing_checkpoint_is_not_overwritten",),
    ),
    Mutant(
        "tensors cross a border as they lie in memory",
        "distributed",
        'return self.graph.call_method("contiguous", (self.copies[node],))',
        "return self.copies[node]",
        ("tests/test_pipeline_borders.py::test_what_crosses_a_border_is_contiguous_whatever_it_is_in_the_model",),
    ),
    Mutant(
        "a boundary lies on a border between stages",
        "distributed",
        "        if step.kind is StepKind.BOUNDARY and stage_of[step.writes] != stage_of[step.gates]:\n",
        "        if False:\n",
        ("tests/test_pipeline_borders.py::test_the_residual_stream_crosses_alone_where_there_is_nothing_else",),
    ),
    Mutant(
        "a stage keeps the parameters of the others",
        "distributed",
        "        vars(self)[kind] = copy.copy(vars(part)[kind])\n",
        "        vars(self)[kind] = copy.copy(vars(model)[kind])\n",
        ("tests/test_pipeline.py::test_stages_together_have_the_state_of_the_model_under_its_names",),
    ),
    Mutant(
        "two stages may share a weight",
        "distributed",
        "        if len(stages) > 1:\n",
        "        if False:\n",
        ("tests/test_pipeline_refusals.py::test_a_weight_of_two_stages_is_refused",),
    ),
    Mutant(
        "parameters come into being inside DistributedDataParallel",
        "distributed",
        "    if compat.DistributedDataParallel._get_active_ddp_module() is not None:\n",
        "    if False:\n",
        (
            "tests/dynamo/test_backend_modes.py::TestDistributed::test_parameters_that_would_not_be_synchronised_are_refused",
        ),
    ),
    Mutant(
        "a model that DDPOptimizer cut is compiled",
        "distributed",
        '    if origin.break_reason.startswith("DDPOptimizer"):\n',
        "    if False:\n",
        ("tests/dynamo/test_backend_modes.py::TestDistributed::test_cuts_of_ddp_optimizer_are_refused",),
    ),
    Mutant(
        "a block does not name its hyper-connections to FSDP",
        "distributed",
        "        yield from vars(self)[HOSTED]._modules.values()\n",
        "",
        ("tests/twin/test_hosts.py::test_every_parameter_has_one_name_and_children_reach_each_once",),
    ),
)
