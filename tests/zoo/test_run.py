from __future__ import annotations

from tests.zoo import run
from tests.zoo.calls import CallsResult
from tests.zoo.result import Result


def test_a_row_shows_verdict_counts_errors_and_reason():
    result = Result(
        "hf:bert", 4, 3, {"eval float64": 1e-16, "eval bfloat16": 2e-3}, failure="found 3 sites", seconds=1.5
    )
    assert " ".join(run.row(result).split()) == "FAIL hf:bert 3/4 1.5 s eval64 1e-16 evalbf16 2e-03 found 3 sites"


def test_the_runner_writes_results_and_counts_failures(monkeypatch, tmp_path, capsys):
    def fake_calls(function, tasks, **_):
        yield tasks[1], None, "the process died"
        yield tasks[0], Result(tasks[0], 4, 4), ""

    monkeypatch.setattr(run, "call_isolated", fake_calls)
    out = tmp_path / "out.json"
    assert run.main(["--only", "hf:albert", "hf:bart", "--json", str(out)]) == 1
    assert "2 models: 1 passed (0 refused), 1 failed, 0 skipped" in capsys.readouterr().out
    assert "the process died" in out.read_text()


def test_models_of_packages_that_are_missing_are_named_as_skipped(monkeypatch, capsys):
    monkeypatch.setattr(run, "missing", lambda target: "monai is not installed" if target.startswith("monai:") else "")
    monkeypatch.setattr(run, "call_isolated", lambda function, tasks, **_: ((t, Result(t, 4, 4), "") for t in tasks))
    assert run.main(["--only", "monai:un*", "hf:bert"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "skip monai:unet monai is not installed" in shown
    assert "1 models: 1 passed (0 refused), 0 failed, 1 skipped" in shown


def test_a_table_of_calls_says_which_way_they_went(monkeypatch, capsys):
    def fake_calls(function, tasks, **_):
        assert function is run.check_calls_of
        yield tasks[0], CallsResult(tasks[0], sites=4, ways={"cache": "Dynamo", "training": "one graph"}), ""
        yield tasks[1], CallsResult(tasks[1], sites=4, ways={"cache": "one graph"}), ""
        yield tasks[2], None, "the process died"

    monkeypatch.setattr(run, "call_isolated", fake_calls)
    assert run.main(["--calls", "--only", "hf:gpt2", "hf:llama", "hf:t5", "hf:swin"]) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "hf:gpt2 0.0 s cache: Dynamo, training: one graph" in shown and "FAIL hf:t5 0.0 s the process died" in shown
    assert "3 models: 2 passed (1 in one graph each, 1 with calls through Dynamo), 1 failed" in shown


def test_the_runner_refuses_a_glob_without_models(capsys):
    assert run.main(["--only", "no:*"]) == 2
    assert "no model matches no:*" in capsys.readouterr().out
