"""What a run prints at its end: its ten slowest tests, and the seconds of each directory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pytest

SLOWEST = 10


class WhereTimeGoes:
    """Adds up the seconds of tests as their reports come in, from other processes too."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Setup, call and teardown of one test come one by one."""
        self.seconds[report.nodeid] += report.duration  # type: ignore[assignment]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the tables, but for a run of one or two tests."""
        if len(self.seconds) > SLOWEST:
            terminalreporter.section("where the time goes, in seconds of one process")
            for line in lines(self.seconds):
                terminalreporter.write_line(line)


def lines(seconds: Counter[str]) -> Iterable[str]:
    """The ten slowest tests, then the sum and the number of tests of each directory, both from the largest down."""
    for name, spent in seconds.most_common(SLOWEST):
        yield f"{spent:8.1f}  {name}"
    yield ""
    folders, tests = Counter[str](), Counter[str]()
    for name, spent in seconds.items():
        folder = name.partition("::")[0].rpartition("/")[0]
        folders[folder] += spent  # type: ignore[assignment]
        tests[folder] += 1
    for folder, spent in folders.most_common():
        yield f"{spent:8.1f}  {folder}, {tests[folder]} tests"
    yield f"{seconds.total():8.1f}  all, {tests.total()} tests"
