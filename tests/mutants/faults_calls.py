"""Faults in how calls are served: what a program is valid for, doors, and what goes through Dynamo."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

CALLS = (
    Mutant(
        "a module that is called from outside runs plain",
        "calls",
        "        if door is not None and not runs_plain():\n",
        "        if False:\n",
        ("tests/test_doors.py",),
    ),
    Mutant(
        "a part that was copied without its model runs plain in silence",
        "calls",
        'with a warning."""\n        return _without(module, args, kwargs)\n',
        'with a warning."""\n        return original_forward(module)(module, *args, **kwargs)\n',
        ("tests/test_doors.py::test_a_part_copied_without_the_model_runs_plain_with_a_warning",),
    ),
    Mutant(
        "a part that outlives its model runs plain in silence",
        "calls",
        "            return _without(module, args, kwargs)\n",
        "            return original_forward(module)(module, *args, **kwargs)\n",
        ("tests/test_doors.py::test_a_part_that_outlives_its_model_runs_plain_with_a_warning",),
    ),
    Mutant(
        "blocks in a loop are not warned of",
        "calls",
        "        if inside and len(inside) < len(segment.sites):\n",
        "        if False:\n",
        ("tests/test_doors.py::test_blocks_in_a_loop_are_cut_with_one_warning_that_names_a_module",),
    ),
    Mutant(
        "numbers that were read may change",
        "calls",
        "                and all([get(mapping) == values for get, mapping, values in self._getters])\n",
        "",
        ("tests/test_reads.py::test_what_forward_reads_is_never_stale_and_costs_no_trace_once_it_is_as_before",),
    ),
    Mutant(
        "objects on the way to what was read may be replaced",
        "calls",
        "                and all([mapping[name] is value for mapping, name, value in self._passed])\n",
        "",
        ("tests/test_reads.py::test_what_forward_reads_is_never_stale_and_costs_no_trace_once_it_is_as_before",),
    ),
    Mutant(
        "a forward set on an instance is not seen",
        "calls",
        "                and self._still_absent()\n",
        "",
        ("tests/test_retrace.py",),
    ),
    Mutant(
        "what a call writes is lost",
        "calls",
        "    if captured.effects:\n        return None\n",
        "",
        ("tests/test_fallback.py::test_what_is_written_in_a_kind_of_call_that_comes_later_is_written",),
    ),
    Mutant(
        "traced hooks run twice",
        "calls",
        "        return self.traced(*args, **kwargs) if runs_plain() else None",
        "        return self.traced(*args, **kwargs)",
        ("tests/test_hosts.py::test_hooks_that_were_traced_do_not_run_again",),
    ),
    Mutant(
        "a number is a trace for each of its values",
        "calls",
        "    if len(alike) >= MAX_ALIKE or numbers:",
        "    if False:",
        ("tests/test_dispatch.py::test_a_number_is_open_from_its_second_value_on",),
    ),
    Mutant(
        "graph breaks of a call are not warned of",
        "calls",
        "        if breaks:\n",
        "        if False:\n",
        ("tests/test_fallback.py",),
    ),
)
