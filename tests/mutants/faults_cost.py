"""Faults in what is counted, estimated and shown on a page."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

COST = (
    Mutant(
        "views are counted as copies",
        "cost",
        '    if not short.endswith("_") and writes.keys() <= reads.keys() and not flops:\n',
        "    if False:\n",
        ("tests/cost/test_count.py::test_views_are_free_and_tables_are_read_by_row",),
    ),
    Mutant(
        "a fused kernel writes what only it reads",
        "cost",
        "for key, size in written.items() if key in results or last_use.get(key, -1) > end)",
        "for key, size in written.items())",
        ("tests/cost/test_count.py::test_neighbours_without_products_are_one_kernel_that_moves_what_lies_outside",),
    ),
    Mutant(
        "the streams of an entry are counted n times",
        "cost",
        "return entry_boundary(n) if entry else boundary(n)",
        "return boundary(n)",
        ("tests/cost/test_traffic.py::test_one_stream_is_read_where_all_are_equal",),
    ),
    Mutant(
        "tokens do not reach the batch",
        "cost",
        "        return value[:1].expand(wanted, *value.shape[1:])\n",
        "        return value\n",
        ("tests/cost/test_estimate.py::test_tokens_set_the_batch",),
    ),
    Mutant(
        "names of a model are written into the page as they are",
        "cost",
        "    return clean(str(text))",
        "    return str(text)",
        ("tests/page/test_page.py::test_names_are_escaped",),
    ),
    Mutant(
        "what a pass changed is not told",
        "cost",
        "return sum(self.before[name].text != self.after[name].text for name in both)",
        "return 0",
        ("tests/passes/test_history.py::test_counts_are_those_of_two_graphs",),
    ),
)
