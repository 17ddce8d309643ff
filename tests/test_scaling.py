"""The formulas of `benchmarks/scaling.py`, against numbers worked out by hand."""

from __future__ import annotations

import pytest

from benchmarks import scaling
from benchmarks.scaling import MEASURED, MODELS, Machine, Model, Spread
from mhc_compile.kernels.formulas.connections import parameter_shapes

SMALL = Model("small", layers=3, width=10, active=1000, sequence=100, batch=8)
PLAIN = Machine("plain", flops=6000, flops_reached=1, bandwidth=480, bandwidth_reached=1, network=12)


def test_times_of_one_token():
    assert scaling.compute_seconds(SMALL, PLAIN) == 1.0
    units = 10 + 15 + 14.25 * 256 / 100 - 6
    assert scaling.mixing_seconds(SMALL, PLAIN, MEASURED) == pytest.approx(6 * 10 * 2 * units / 480)
    assert scaling.border_seconds(SMALL, PLAIN) == 2 * 3 * 10 * 2 / 12
    assert scaling.restoring_seconds(SMALL, PLAIN, 1) == 0
    assert scaling.restoring_seconds(SMALL, PLAIN, 3) == pytest.approx(6 * 10 * 2 * (9 + 10) / 3 / 480)


def test_new_parameters_are_those_of_the_connection():
    shapes = parameter_shapes("mhc", scaling.N, SMALL.width).values()
    one = sum(shape[0] * (shape[1] if len(shape) > 1 else 1) for shape in shapes)
    assert scaling.new_parameters(SMALL) == SMALL.sites * one


def test_memory_of_groups():
    assert scaling.kept_bytes(SMALL, 1) == 100 * 6 * 10 * 2 * 5
    assert scaling.kept_bytes(SMALL, 4) == 100 * 6 * 10 * 2 * 2
    assert scaling.group(MODELS[0], 1) == 6 and scaling.group(MODELS[1], 16) == 7


def test_streams_are_cut_by_sequence_and_context_parallelism_only():
    alone = scaling.mixing_seconds(SMALL, PLAIN, MEASURED)
    for spread, share, parts in ((Spread(4), 4, 1), (Spread(4, True), 1, 4), (Spread(4, True, 2), 1, 8)):
        assert scaling.spread_mixing(SMALL, PLAIN, spread) == pytest.approx(share * alone)  # compute is one second
        assert spread.parts == parts
    assert scaling.reduced_bytes(SMALL, 3, Spread(4)) == scaling.reduced_bytes(SMALL, 3, Spread(context=2)) == 0
    assert scaling.reduced_bytes(SMALL, 3, Spread(4, True)) == 4 * scaling.new_parameters(SMALL) / 3


def test_the_tables_are_those_of_the_document(capsys):
    scaling.main([])
    printed = " ".join(capsys.readouterr().out.split())
    for figure in ("3.6 │ 2.3", "14.4 │ 9.2", "6.3 │ 2.1 │ 6", "35.8 │ 11.3 │ 7", "7.56", "7.22"):
        assert figure in printed
