"""The table of connections says what the code does, and documents have it as it stands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mhc_compile import cli
from mhc_compile.kernels.formulas.connections import CONNECTIONS, parameter_count, parameter_shapes
from mhc_compile.report import connections

ROOT = Path(__file__).parents[2]


def test_the_document_has_the_table_as_it_stands():
    assert connections.markdown() in (ROOT / "docs" / "api.md").read_text()


def test_every_connection_has_a_row_with_its_parameters_and_traffic():
    found = {row.name.partition(":")[0]: row for row in connections.rows(4, 64)}
    assert list(found) == list(CONNECTIONS)
    for name, row in found.items():
        n = {"residual": 1, "parallel-lanes": 2}.get(name, 4)
        assert row.parameters == parameter_count(parameter_shapes(name, n, 64))
        assert row.mixing and row.gates and row.source and row.keeps
        fused = CONNECTIONS[name].manifold is not None
        assert ((row.forward, row.backward) == (10, 15)) == fused
    assert found["gated"].name == "gated:rank=32" and "a norm of its channels" in found["gated"].keeps


def test_numbers_that_a_connection_does_not_have_are_left_out():
    found = {row.name: row for row in connections.rows(6, 64)}
    assert found["kronecker"].parameters is found["mhc-lite"].forward is None
    assert found["mhc"].parameters == 6 * 64 * 48 + 3 + 48


def test_the_command_prints_the_table_and_json(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["connections", "--channels", "64"]) == 0
    out = capsys.readouterr().out
    assert "counted for  n = 4, C = 64" in out
    (line,) = (line for line in out.splitlines() if line.startswith("mhc "))
    assert "6,171" in line and "2512.24880" in line
    assert cli.main(["connections", "--n", "2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["n"] == 2 and told["connections"][0]["name"] == "residual"


def test_a_wrong_number_is_a_user_error(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["connections", "--n", "0"]) == 2
    assert "at least 1" in capsys.readouterr().err
