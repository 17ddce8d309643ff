"""The list of faults fits the code, and the runner tells a fault that is caught from one that is not."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

from tests.mutants.faults import MUTANTS
from tests.mutants.mutant import AREAS, Mutant, Project, StaleMutantError
from tests.mutants.run import PROJECT, accepted, line, totals
from tests.mutants.trial import Outcome, Verdict, attempt

TOY = {
    "pyproject.toml": '[tool.setuptools.package-dir]\n"toy.parts" = "parts"\n',
    "toy/__init__.py": "",
    "parts/__init__.py": "",
    "parts/double.py": "def double(x):\n    return 2 * x\n",
    "tests/test_double.py": (
        "import pytest\nfrom toy.parts.double import double\n"
        "def test_two():\n    assert double(2) == 4\n"
        "def test_three():\n    assert double(3) == 6\n"
    ),
}


@pytest.fixture
def toy(tmp_path: Path) -> Project:
    """A package with a part beside it, as this one has."""
    for name, text in TOY.items():
        path = tmp_path / "toy project" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Project(tmp_path / "toy project", "toy")


def fault(new: str, *tests: str, old: str = "return 2 * x") -> Mutant:
    return Mutant("a fault", "kernels", old, new, tests or ("tests",))


@pytest.fixture(scope="module")
def sources() -> dict[Path, str]:
    return PROJECT.sources()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_text_of_each_fault_stands_in_one_place(mutant: Mutant, sources: dict[Path, str]) -> None:
    path = PROJECT.find(mutant, sources)
    assert mutant.new != mutant.old
    if path.suffix == ".py":
        ast.parse(sources[path].replace(mutant.old, mutant.new))
    for test in mutant.tests:
        file, *names = test.partition("[")[0].split("::")
        source = PROJECT.root.joinpath(file).read_text(encoding="utf-8")
        assert all(f"def {name}(" in source or f"class {name}:" in source for name in names), test


def test_there_are_enough_of_every_kind() -> None:
    assert len(MUTANTS) >= 40 and {m.area for m in MUTANTS} == set(AREAS)
    assert min(Counter(m.area for m in MUTANTS).values()) >= 4
    assert len({m.name for m in MUTANTS}) == len(MUTANTS)
    assert sum(not m.excuse for m in MUTANTS) >= 0.95 * len(MUTANTS)


def test_a_fault_whose_text_is_gone_or_stands_twice_is_reported(toy: Project) -> None:
    with pytest.raises(StaleMutantError, match=r"a fault: its text is found 0 times \(no file\)"):
        toy.find(fault("", old="return 3 * x"))
    toy.root.joinpath("toy", "again.py").write_text(TOY["parts/double.py"])
    with pytest.raises(StaleMutantError, match=r"found 2 times \(parts/double.py, toy/again.py\)"):
        toy.find(fault(""))


def test_a_fault_is_tried_in_a_copy_and_who_caught_it_is_told(toy: Project, tmp_path: Path) -> None:
    outcome = attempt(toy, fault("return x * x"), timeout=60, caches=tmp_path)
    assert outcome.verdict is Verdict.CAUGHT and outcome.by == "tests/test_double.py::test_three", outcome.output
    assert toy.root.joinpath("parts/double.py").read_text() == TOY["parts/double.py"]


def test_a_fault_that_no_test_notices_is_not_caught(toy: Project, tmp_path: Path) -> None:
    mutant = fault("return x * x", "tests/test_double.py::test_two")
    outcome = attempt(toy, mutant, timeout=60, caches=tmp_path)
    assert (outcome.verdict, outcome.by) == (Verdict.MISSED, ""), outcome.output
    assert not accepted(mutant, outcome) and "NOT CAUGHT" in line(mutant, outcome)


@pytest.mark.parametrize(("new", "tests", "timeout", "verdict"), [
    ("return 2 *", ("tests",), 60, Verdict.BROKEN),  # no Python: nothing was tested
    ("return x * x", ("tests/test_gone.py",), 60, Verdict.BROKEN),
    ("while True: pass", ("tests",), 2, Verdict.TIMEOUT),
], ids=["syntax", "no test", "endless"])  # fmt: skip
def test_what_could_not_be_tried_is_not_caught(
    new: str, tests: tuple[str, ...], timeout: float, verdict: Verdict, toy: Project, tmp_path: Path
) -> None:
    assert attempt(toy, fault(new, *tests), timeout=timeout, caches=tmp_path).verdict is verdict


def test_an_import_from_outside_of_the_copy_is_seen(toy: Project, tmp_path: Path) -> None:
    outside = tmp_path / "outside.py"
    outside.write_text("")
    test = (
        "import importlib.util, sys\n"
        "def test_it():\n"
        f"    spec = importlib.util.spec_from_file_location('toy.outside', {str(outside)!r})\n"
        "    sys.modules['toy.outside'] = importlib.util.module_from_spec(spec)\n"
    )
    toy.root.joinpath("tests/test_outside.py").write_text(test)
    outcome = attempt(toy, fault("return x * x", "tests/test_outside.py"), timeout=60, caches=tmp_path)
    assert outcome.verdict is Verdict.BROKEN and "outside of the copy" in outcome.output


def test_an_excuse_for_a_fault_that_is_caught_is_out_of_date() -> None:
    excused = Mutant("a fault", "fuse", "a", "b", ("tests",), excuse="nothing can tell")
    caught, missed = Outcome(Verdict.CAUGHT, "test", 1.0), Outcome(Verdict.MISSED, "", 1.0)
    assert accepted(excused, missed) and not accepted(excused, caught)
    assert "nothing can tell" in line(excused, missed)
    assert totals([(excused, missed)]).row_count == 2
