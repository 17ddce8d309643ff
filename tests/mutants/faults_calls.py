"""Faults in how calls are served: what a program is valid for, doors, and what goes through Dynamo."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

CALLS = (
    Mutant(
        "a module that is called from outside runs plain",
        "calls",
        "        if door is not None and not runs_plain():\n",
        "        if False:\n",
        ("tests/model/test_doors.py",),
    ),
    Mutant(
        "a part that was copied without its model runs plain in silence",
        "calls",
        'with a warning."""\n        return _without(module, args, kwargs)\n',
        'with a warning."""\n        return original_forward(module)(module, *args, **kwargs)\n',
        ("tests/model/test_doors.py::test_a_part_copied_without_the_model_runs_plain_with_a_warning",),
    ),
    Mutant(
        "a part that outlives its model runs plain in silence",
        "calls",
        "            return _without(module, args, kwargs)\n",
        "            return original_forward(module)(module, *args, **kwargs)\n",
        ("tests/model/test_doors.py::test_a_part_that_outlives_its_model_runs_plain_with_a_warning",),
    ),
    Mutant(
        "blocks in a loop are not warned of",
        "calls",
        "        if inside and len(inside) < len(segment.sites):\n",
        "        if False:\n",
        ("tests/model/test_doors.py::test_blocks_in_a_loop_are_cut_with_one_warning_that_names_a_module",),
    ),
    Mutant(
        "numbers that were read may change",
        "calls",
        "                and all([get(mapping) == values for get, mapping, values in self._getters])\n",
        "",
        (
            "tests/capture/test_reads.py::test_what_forward_reads_is_never_stale_and_costs_no_trace_once_it_is_as_before",
        ),
    ),
    Mutant(
        "objects on the way to what was read may be replaced",
        "calls",
        "            and all([mapping[name] is value for mapping, name, value in self._passed])\n",
        "",
        (
            "tests/capture/test_reads.py::test_what_forward_reads_is_never_stale_and_costs_no_trace_once_it_is_as_before",
        ),
    ),
    Mutant(
        "a forward set on an instance is not seen",
        "calls",
        "                and self._still_absent()\n",
        "",
        ("tests/model/test_retrace.py",),
    ),
    Mutant(
        "what a call writes is lost",
        "calls",
        "    if captured.effects:\n        return None\n",
        "",
        ("tests/model/test_fallback.py::test_what_is_written_in_a_kind_of_call_that_comes_later_is_written",),
    ),
    Mutant(
        "traced hooks run twice",
        "calls",
        "if RUN in kwargs or (door and not runs_plain()):",
        "if False:",
        ("tests/twin/test_hosts.py::test_hooks_that_were_traced_do_not_run_again",),
    ),
    Mutant(
        "a number is a trace for each of its values",
        "calls",
        "    if len(alike) >= MAX_ALIKE or numbers:",
        "    if False:",
        ("tests/programs/test_dispatch.py::test_a_number_is_open_from_its_second_value_on",),
    ),
    Mutant(
        "graph breaks of a call are not warned of",
        "calls",
        "        if breaks:\n",
        "        if False:\n",
        ("tests/model/test_fallback.py",),
    ),
    Mutant(
        "compiled code around a model does not look again at what a program has read",
        "calls",
        "    guard_while_compiled(lambda: holds() is found, ",
        "    str(",
        ("tests/model/test_doors.py::test_an_outer_compile_sees_what_has_changed_wherever_it_lies",),
    ),
    Mutant(
        "a method that is replaced on a class is not seen",
        "calls",
        "                and [getattr(kind, name, MISSING) for kind, name in self._looked_up] == self._in_classes\n",
        "",
        ("tests/twin/test_patched_classes.py",),
    ),
    Mutant(
        "what is set on a class made on the fly stays there",
        "calls",
        "        return kind is self._kind and not name.startswith",
        "        return False and not name.startswith",
        ("tests/twin/test_patched_classes.py",),
    ),
    Mutant(
        "a forward that is put back is taken for another one",
        "calls",
        "                value = inner[0] if inner else self._original.forward\n",
        "                pass\n",
        ("tests/twin/test_patched_classes.py",),
    ),
    Mutant(
        "frozen parameters are not seen where code asks for them",
        "calls",
        "        if self._required and [p.requires_grad for p in parameters]",
        "        if False and [p.requires_grad for p in parameters]",
        ("tests/capture/test_reads.py::test_what_requires_gradients_is_read_where_code_asks_for_it",),
    ),
    Mutant(
        "frozen inputs are not seen where code asks for them",
        "calls",
        "if self.gradients is not None and value.requires_grad != self.gradients:",
        "if False:",
        ("tests/capture/test_reads.py::test_whether_an_input_requires_gradients_is_read_where_code_asks_for_it",),
    ),
    Mutant(
        "behind its limit of recompilations Dynamo runs a call plain",
        "calls",
        "if self._compilations == RECOMPILE_LIMIT - 1 or forward",
        "if forward",
        ("tests/model/test_fallback.py::test_a_list_that_only_grows_is_told_of_and_never_makes_it_run_plain",),
    ),
    Mutant(
        "Dynamo runs a forward that was replaced on the class",
        "calls",
        "self._compilations == RECOMPILE_LIMIT - 1 or forward is not self._forward:",
        "self._compilations == RECOMPILE_LIMIT - 1:",
        ("tests/twin/test_patched_classes.py::test_calls_that_go_through_dynamo_run_what_replaces_a_method",),
    ),
    Mutant(
        "a backend has no doors",
        "calls",
        "        attach_doors(model, [",
        "        _ = (model, [",
        ("tests/dynamo/test_compiled_doors.py",),
    ),
    Mutant(
        "hooks of a module without sites do not fire when it is called from outside",
        "calls",
        "if RUN in kwargs or (door and not runs_plain()):",
        "if RUN in kwargs or not runs_plain():",
        ("tests/model/test_doors.py",),
    ),
)
