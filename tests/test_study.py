"""The study's code, on runs of a few steps."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace

import pytest

from benchmarks.study import __main__ as command
from benchmarks.study import train as training
from benchmarks.study.drawings import write_drawings
from benchmarks.study.plan import Run, Size, plan_runs
from benchmarks.study.results import outside, rows_of, table, to_dict
from benchmarks.study.train import is_done, train
from tests.tables import also

TINY = Size(layers=1, width=8, heads=2, batch=2, context=8, steps=8)
RUNS = [
    Run("gpt", "residual", 0, TINY),
    Run("gpt", "hc", 0, TINY),
    Run("upcycle", "mhc", 0, TINY, plain_steps=4),
]


def forever(step):
    return True


def until(stop):
    return lambda step: step < stop


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return {run: train(run, folder, forever) for run in RUNS}


# At the conversion and behind it, in front of it; where nothing is converted, anywhere.
@pytest.mark.parametrize(
    ("run", "stops"), [(RUNS[2], (4, 5)), *also((RUNS[1], (3,)), (RUNS[2], (3,)), (RUNS[2], (1, 6)))]
)
def test_a_run_that_is_stopped_goes_on_as_if_nothing_had_been(run, stops, results, tmp_path):
    for stop in stops:
        assert train(run, tmp_path, until(stop)) is None and not is_done(run, tmp_path)
    found = train(run, tmp_path, forever)
    assert found == results[run] and is_done(run, tmp_path)


def test_a_run_that_was_killed_loses_the_steps_since_it_was_saved(results, tmp_path, monkeypatch):
    def killed(step):
        if step == 5:
            raise KeyboardInterrupt
        return True

    monkeypatch.setattr(training, "SAVES", 4)  # every second step
    with pytest.raises(KeyboardInterrupt):
        train(RUNS[1], tmp_path, killed)
    seen = []
    assert train(RUNS[1], tmp_path, lambda step: seen.append(step) or True) == results[RUNS[1]]
    assert seen[0] == 4


def test_a_finished_run_is_not_trained_again(results, tmp_path):
    train(RUNS[0], tmp_path, forever)
    assert train(RUNS[0], tmp_path, lambda step: pytest.fail("it is trained")) == results[RUNS[0]]


def test_runs_of_one_seed_see_the_same_text_and_start_at_the_same_loss(results):
    plain, hyper, upcycled = (results[run]["losses"] for run in RUNS)
    assert hyper[0] == pytest.approx(plain[0], abs=1e-4) and upcycled[:4] == plain[:4] and hyper[-1] != plain[-1]


def test_the_plan_compares_like_with_like():
    for short in (True, False):
        runs = plan_runs(short)
        assert len({run.name for run in runs}) == len(runs)
        gpts = {run.size for run in runs if run.study == "gpt"}
        assert len(gpts) == 1 and all(run.size == next(iter(gpts)) for run in runs if run.study == "gpt")
    assert len({run.seed for run in plan_runs(False)}) == 3


def test_rows_have_means_and_bands_and_a_later_study_is_held_against_them(results):
    twice = {
        **results,
        replace(RUNS[1], seed=1): {**results[RUNS[1]], "validation": results[RUNS[1]]["validation"] + 0.2},
    }
    rows = rows_of(twice)
    hyper = next(row for row in rows if row.connection == "hc")
    assert hyper.seeds == 2 and hyper.deviation == pytest.approx(0.2 / 2**0.5) and len(hyper.gains) == 2
    assert "± 0.1414" in table(rows)
    bands = to_dict(rows, short=True)["bands"]
    assert outside(rows, bands) == []
    assert len(outside([replace(hyper, validation=9.0)], bands)) == 1


def test_what_is_no_number_is_no_small_number(results):
    broken = copy.deepcopy(results[RUNS[1]])
    broken["records"][-1]["sites"][0][0] = math.nan
    broken["gradients"][-1] = math.nan
    (row,) = rows_of({RUNS[1]: broken})
    assert row.gain == row.gain_ever == row.spikes == math.inf


def test_another_size_is_another_run():
    assert (
        len({run.name for run in (RUNS[1], replace(RUNS[1], n=2), replace(RUNS[1], size=replace(TINY, steps=7)))}) == 3
    )


def test_gradients_of_all_connections_are_those_of_the_same_parameters(results):
    plain, hyper, _ = (results[run]["gradients"] for run in RUNS)
    assert hyper[0] == pytest.approx(plain[0], rel=1e-3)


def test_drawings_are_written(results, tmp_path):
    pytest.importorskip("matplotlib")
    assert len(write_drawings(results, rows_of(results), tmp_path)) == 4


def test_the_command_goes_on_until_all_is_there(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "plan_runs", lambda short: RUNS[:1])
    monkeypatch.setattr(command, "HERE", tmp_path)
    line = ["--short", "--out", str(tmp_path)]
    assert command.main([*line, "--minutes", "1e-9"]) == 3
    assert command.main(line) == 0
    found = json.loads((tmp_path / "short" / "study.json").read_text())
    assert found["rows"][0]["connection"] == "residual"
    (tmp_path / "short.json").write_text(json.dumps({"bands": {"gpt/residual": [0, 0.1]}}))
    assert command.main(line) == 1
    assert "is not in 0.0000 to 0.1000" in capsys.readouterr().out
