from __future__ import annotations

import json
import subprocess
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import mhc_compile
from mhc_compile import cli, targets
from mhc_compile.errors import CaptureError
from mhc_compile.passes.plan.data import Plan
from mhc_compile.verification.examine import MODES, START, Check, Verification
from tests import hand_plans as hand

Fake = Callable[..., dict[str, Any]]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Replace resolving and planning; returns what they were called with."""

    def install(
        plan: Plan | Exception, notes: tuple[str, ...] = (), inputs: tuple[Any, ...] = ("x",)
    ) -> dict[str, Any]:
        calls: dict[str, Any] = {}
        model = types.SimpleNamespace(train=lambda mode: calls.update(train=mode))

        def resolve(name: str, **options: Any) -> types.SimpleNamespace:
            calls.update(target=name, resolve=options)
            print("a factory that prints")
            return types.SimpleNamespace(model=model, example_inputs=inputs, example_kwargs={}, notes=notes)

        def make_plan(model: Any, **options: Any) -> Plan:
            calls.update(plan=options)
            if isinstance(plan, Exception):
                raise plan
            return plan

        monkeypatch.setattr(targets, "resolve", resolve)
        monkeypatch.setattr(mhc_compile, "plan", make_plan)
        return calls

    return install


def test_a_report_is_printed_and_the_exit_code_is_zero(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake(hand.plan([hand.transformer()]), notes=("built on the CPU",))
    assert cli.main(["inspect", "timm:vit"]) == 0
    out, err = capsys.readouterr()
    assert "timm:vit" in out and "blocks.{0..11}.attn" in out and "built on the CPU" in out
    assert "\x1b" not in out
    assert err == "a factory that prints\n"


def test_options_reach_the_plan_and_the_target(fake: Fake) -> None:
    calls = fake(hand.plan([hand.transformer()]))
    line = "inspect m:f --n 2 --connection hc --init random --reduce sum --include a.* b.* --exclude c --nested inner"
    more = [
        "--min-sites",
        "3",
        "--input",
        "2x3:float32",
        "2x4",
        "--config",
        "a=[1,2],b.c=x",
        "--config",
        "d=4",
        "--train",
    ]
    assert cli.main([*line.split(), *more, "--no-meta"]) == 0
    plan = {"n": 2, "connection": "hc", "init": "random", "reduce": "sum", "include": ["a.*", "b.*"], "exclude": ["c"],
            "nested": "inner", "min_sites": 3, "example_inputs": ("x",), "example_kwargs": {}}  # fmt: skip
    assert calls["plan"] == plan
    config = {"a": [1, 2], "b.c": "x", "d": 4}
    assert calls["resolve"] == {"meta": False, "config": config, "inputs": ["2x3:float32", "2x4"]}
    assert calls["train"] is True


def test_a_target_without_inputs_leaves_them_to_the_model(fake: Fake) -> None:
    calls = fake(hand.plan([hand.transformer()]), inputs=())
    assert cli.main(["inspect", "m:f"]) == 0
    assert "example_inputs" not in calls["plan"] and calls["train"] is False


def test_json_is_all_there_is_on_stdout(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    plan = hand.plan([hand.transformer()], (hand.rejection("mask"),))
    fake(plan)
    assert cli.main(["inspect", "timm:vit", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(plan.to_json())


def test_why_explains_one_node(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake(hand.plan([hand.transformer()]))
    assert cli.main(["inspect", "timm:vit", "--why", "blocks.3.mlp"]) == 0
    out = capsys.readouterr().out
    assert "becomes a hyper-connection" in out and "add_7" in out and "Segments" not in out


def test_why_with_an_unknown_node_is_a_user_error(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake(hand.plan([hand.transformer()]))
    assert cli.main(["inspect", "timm:vit", "--why", "blocks.3.mpl"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "did you mean" in err and "blocks.3.mlp" in err


def test_no_site_prints_the_report_and_then_fails(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake(hand.plan([], (hand.rejection("mask"),)))
    assert cli.main(["inspect", "timm:vgg"]) == 2
    out, err = capsys.readouterr()
    assert "BROADCAST" in out and "mask" in out
    assert err.splitlines()[-1].startswith("error: timm:vgg has no residual add that can be rewritten, out of 1 traced")


def test_a_user_error_is_one_message_without_traceback(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake(CaptureError("cannot be traced [at model.py:3]"))
    assert cli.main(["inspect", "timm:vit"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "error: cannot be traced [at model.py:3]" in err and "Traceback" not in err


def test_debug_adds_the_traceback(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake(CaptureError("no"))
    assert cli.main(["inspect", "timm:vit", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_defect_is_an_internal_error(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake(ZeroDivisionError("oops"))
    assert cli.main(["inspect", "timm:vit"]) == 70
    err = capsys.readouterr().err
    assert "internal error: ZeroDivisionError: oops" in err and "--debug" in err and "Traceback" not in err


def test_totals_that_do_not_add_up_are_an_internal_error(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake(replace(hand.plan([hand.transformer()]), float_adds=99))
    assert cli.main(["inspect", "timm:vit"]) == 70
    assert "InconsistentPlanError" in capsys.readouterr().err


def test_a_keyboard_interrupt_has_the_code_of_shells(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(hand.plan([]))

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(targets, "resolve", interrupt)
    assert cli.main(["inspect", "timm:vit"]) == 130


@pytest.mark.parametrize(
    "options",
    [["--n", "0"], ["--n", "9"], ["--min-sites", "0"], ["--graph", "a.png"], ["--width", "0"], ["--connection", "foo"]],
)
def test_wrong_options_fail_before_a_model_is_built(fake: Fake, options: list[str]) -> None:
    calls = fake(hand.plan([hand.transformer()]))
    assert cli.main(["inspect", "timm:vit", *options]) == 2
    assert calls == {}


@pytest.mark.parametrize("arguments", [[], ["inspect"], ["inspect", "t", "--json", "--why", "x"]])
def test_usage_errors_exit_with_two(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as error:
        cli.main(arguments)
    assert error.value.code == 2


def test_a_drawing_is_written_beside_the_report(fake: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake(hand.plan([hand.transformer()]))
    path = tmp_path / "out.svg"
    assert cli.main(["inspect", "timm:vit", "--json", "--graph", str(path)]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) and str(path) in err and path.read_text().startswith("<?xml")


def test_width_folds_a_report_without_cutting_names(fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    fake(hand.plan([hand.transformer()]))
    assert cli.main(["inspect", "timm:vit", "--width", "70"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 70 and "…" not in out


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith("mhc-compile ")


def test_help_shows_targets_examples_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["inspect", "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert "TARGET is one of" in out and "examples" in out and "exit codes" in out


def test_the_module_can_be_run_as_the_command_is(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mhc_compile.cli", "inspect", f"{tmp_path}/missing.py:build", "--input", "2x3"]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/")
    assert done.returncode == cli.USER_ERROR and "missing.py" in done.stderr


def test_verify_runs_both_and_its_exit_code_says_whether_all_claims_hold(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: dict[str, Any] = {}

    def resolve(name: str, **options: Any) -> types.SimpleNamespace:
        asked.update(options)
        model = types.SimpleNamespace(train=lambda mode: None)
        return types.SimpleNamespace(model=model, example_inputs=("x",), example_kwargs={}, notes=())

    checks = [Check("train", START, 1e-7, 1e-3), Check("", MODES, None, 1e-3, "they differ")]
    monkeypatch.setattr(targets, "resolve", resolve)
    monkeypatch.setattr(mhc_compile, "verify", lambda *_, **__: Verification("Net", 2, tuple(checks)))
    assert cli.main(["verify", "timm:vit"]) == 0 and asked["meta"] is False
    out, _ = capsys.readouterr()
    assert "all 1 claim hold" not in out and "1 claim holds" in out and "they differ" in out
    checks[0] = replace(checks[0], distance=0.5, note="the rewrite is wrong")
    assert cli.main(["verify", "timm:vit", "--json"]) == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["checks"][0]["failed"] is True
    assert "'starts as the model' is not true" in err
