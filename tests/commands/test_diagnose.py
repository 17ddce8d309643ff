from __future__ import annotations

import json
import sys

import pytest
import torch

import mhc_compile
from mhc_compile import checkpoint, cli
from tests.toy_models import WIDTH, Tower

TARGET = ["diagnose", "tests.toy_models:Tower", "--config", "depth=2", "--input", f"2x3x{WIDTH}:float32"]


@pytest.fixture
def saved(tmp_path):
    model = mhc_compile.transform(Tower(2).eval(), example_inputs=(torch.randn(2, 3, WIDTH),), connection="hc", n=3)
    checkpoint.save({"model": model.state_dict()}, tmp_path / "last.pt")
    return tmp_path / "last.pt"


def test_a_checkpoint_is_looked_at(saved, capsys):
    assert cli.main([*TARGET, "--checkpoint", str(saved)]) == 0
    out, err = capsys.readouterr()
    assert f"weights of {saved}" in out and "hc · n = 3" in out and "blocks.{0..1}" in out and err == ""


def test_json_is_all_that_is_printed(capsys):
    assert cli.main([*TARGET, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [s["key"] for s in found["sites"]] == ["blocks.0", "blocks.1"] and found["schema_version"] == 1


@pytest.mark.exhaustive  # three commands, to see that one option is handed on
def test_the_same_seed_gives_the_same_figures(capsys):
    outputs = []
    for seed in ("1", "1", "2"):
        assert cli.main([*TARGET, "--json", "--seed", seed]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] != outputs[2]


def test_drawings_are_written(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    assert cli.main([*TARGET, "--plot", str(tmp_path / "figures")]) == 0
    assert f"6 drawings written to {tmp_path / 'figures'}" in capsys.readouterr().err
    assert (tmp_path / "figures" / "gain.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--checkpoint", "/nowhere/x.pt"], "there is no checkpoint /nowhere/x.pt"),
        (["--checkpoint", "{saved}", "--config", "depth=3"], "is a checkpoint of another model than Tower"),
        (["--min-sites", "9"], "no residual"),
    ],
)
def test_each_mistake_has_one_clear_error(more, message, saved, capsys):
    assert cli.main([*TARGET, *(text.format(saved=saved) for text in more)]) == 2
    err = capsys.readouterr().err
    assert message in err and err.startswith("error: ") and "Traceback" not in err


def test_without_matplotlib_nothing_is_built(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert cli.main(["diagnose", "nowhere:at_all", "--plot", "x"]) == 2
    assert "pip install 'mhc-compile[plots]'" in capsys.readouterr().err
