"""`estimate`, `report` and `inspect --rewrites` as a user calls them, on small models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mhc_compile import cli

TOWER = ["tests.toy_models:Tower", "--input", "4x5x8:float32"]
LINEAR = ["torch.nn:Linear", "--config", "in_features=8,out_features=8", "--input", "4x8"]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.main(list(arguments))
    return code, *capsys.readouterr()


def test_an_estimate_is_a_table_of_every_pair(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "estimate", *TOWER, "--n", "2,4", "--connection", "mhc,identity", "--tokens", "200")
    assert code == 0 and "200 tokens" in out
    rows = [line.split()[:2] for line in out.splitlines()]
    assert all([n, name] in rows for n in ("2", "4") for name in ("mhc", "identity"))


def test_an_estimate_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "estimate", *TOWER, "--json", "--device", "mi300x", "--dtype", "float32")
    found = json.loads(out)
    assert code == 0 and found["device"]["name"] == "mi300x" and found["dtype"] == "float32"
    assert [row["n"] for row in found["rows"]] == [2, 4, 8]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["estimate", *TOWER, "--device", "abacus"], "the device 'abacus' is not known: write one of h100"),
        (["estimate", *TOWER, "--n", "two"], "no list of numbers"),
        (["estimate", *TOWER, "--tokens", "0"], "not at least 1"),
        (["estimate", *TOWER, "--connection", "mhc,moc"], "connection='moc' is not known"),
        (["estimate", *LINEAR], "no residual add"),
        (["report", *TOWER, "-o", "page.txt"], "no .html suffix"),
        (["report", *TOWER, "-o", "no/such/folder/page.html"], "does not exist"),
        (["report", *TOWER, "-o", "page.html", "--device", "abacus"], "is not known"),
        (["inspect", *TOWER, "--rewrites", "blocks.9"], "there is no site 'blocks.9'"),
        (["inspect", *LINEAR, "--rewrites"], "no residual add"),
    ],
)
def test_a_user_error_is_one_message(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, *arguments)
    assert code == 2 and out == "" and told in err and "Traceback" not in err


def test_a_report_says_where_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "page.html"
    code, out, _ = run(capsys, "report", *TOWER, "-o", str(path), "--json")
    written = json.loads(out)
    assert code == 0 and written["path"] == str(path) and written["bytes"] == path.stat().st_size
    assert written["sites"] == 3 and written["missing"] == []
    html = path.read_text(encoding="utf-8")
    assert all(f'<section id="{name}"' in html for name in ("streams", "sites", "alone", "cost", "code"))


def test_a_report_without_sites_is_written_and_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "page.html"
    code, _, err = run(capsys, "report", *LINEAR, "-o", str(path))
    assert code == 2 and f"see the reasons in {path}" in err and path.is_file()


def test_passes_are_shown_around_a_site(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "inspect", *TOWER, "--rewrites", "blocks.2")
    assert code == 0 and "Around blocks.2, what rewrite changes" in out
    code, out, _ = run(capsys, "inspect", *TOWER, "--rewrites", "--json")
    assert code == 0 and json.loads(out)["site"] == "blocks.1"
