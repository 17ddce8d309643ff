"""The tables at the end of a run of the tests."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

from tests.where_time_goes import WhereTimeGoes, lines

SECONDS = Counter({f"tests/a/test_x.py::test_{i}[b/c]": float(i) for i in range(12)} | {"tests/test_y.py::test": 3.5})


def test_the_ten_slowest_come_first_and_the_slowest_of_them_first() -> None:
    printed = list(lines(SECONDS))
    assert printed[0].split() == ["11.0", "tests/a/test_x.py::test_11[b/c]"]
    assert printed[8].split() == ["3.5", "tests/test_y.py::test"]
    assert printed[10] == ""


def test_each_directory_has_its_sum_and_its_number_of_tests() -> None:
    assert [line.strip() for line in list(lines(SECONDS))[11:]] == [
        "66.0  tests/a, 12 tests", "3.5  tests, 1 tests", "69.5  all, 13 tests",
    ]  # fmt: skip


def test_setup_and_teardown_count_for_their_test() -> None:
    plugin = WhereTimeGoes()
    for duration in (1.0, 2.5, 0.5):
        plugin.pytest_runtest_logreport(SimpleNamespace(nodeid="tests/test_y.py::test", duration=duration))
    assert plugin.seconds == {"tests/test_y.py::test": 4.0}


def test_a_run_of_a_few_tests_prints_nothing() -> None:
    printed: list[str] = []
    reporter = SimpleNamespace(section=printed.append, write_line=printed.append)
    plugin = WhereTimeGoes()
    plugin.seconds.update({"tests/test_y.py::test": 4.0})
    plugin.pytest_terminal_summary(reporter)
    assert not printed
    plugin.seconds = SECONDS
    plugin.pytest_terminal_summary(reporter)
    assert len(printed) == 1 + len(list(lines(SECONDS)))
