from __future__ import annotations

import pytest
import torch

from mhc_compile.config import Config
from mhc_compile.passes.order import make_plan
from mhc_compile.passes.plan.parameters import parameter_specs
from tests.passes.graphs import traced
from tests.passes.shapes import SHAPES


def specs(name="pre-norm", **options):
    model, inputs = SHAPES[name].make()
    config = Config(**options)
    plan = make_plan(traced(model, *inputs), config)
    return plan, parameter_specs(plan, config)


@pytest.mark.parametrize(
    "options", [{}, {"reduce": "learned"}, {"connection": "hc"}, {"n": 2, "connection": "mhc-lite"}]
)
def test_the_plan_counts_what_the_specs_hold(options):
    plan, found = specs(**options)
    values = [v for s in found.values() for v in s.initial_values(torch.float32, "cpu").values()]
    assert sum(v.numel() for v in values) == plan.parameters
    assert all(v.dtype == torch.float32 for v in values)


def test_every_site_has_its_key_and_its_place_in_the_segment():
    plan, found = specs()
    assert list(found) == [s.key for s in plan.sites]
    assert [s.position for s in found.values()] == [0, 1, 2, 3]
    assert found["0.mlp"].identifier == "_0__mlp"


def test_initial_values_have_the_shapes_and_the_order_of_the_spec():
    for spec in specs(reduce="learned")[1].values():
        values = spec.initial_values(torch.float64, "cpu")
        assert {k: tuple(v.shape) for k, v in values.items()} == spec.shapes and list(values) == list(spec.shapes)


def test_only_a_learned_readout_has_parameters():
    assert "1.mlp.readout" not in specs()[1]
    assert specs(reduce="learned")[1]["1.mlp.readout"].shapes["phi"] == (32, 4)


@pytest.mark.parametrize(("name", "linear"), [("pre-norm", True), ("post-norm", False)])
def test_a_nonlinear_segment_starts_with_equal_streams(name, linear):
    for spec in specs(name)[1].values():
        write = spec.initial_values(torch.float64, "cpu")["bias"][4:8]
        assert spec.linear is linear and bool(write.any()) is linear


@pytest.mark.parametrize("options", [{"n": 1}, {"connection": "residual"}])
def test_one_stream_has_no_parameters(options):
    assert specs(**options)[1] == {}
