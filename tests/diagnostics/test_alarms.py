from __future__ import annotations

import pytest

from mhc_compile.diagnostics.alarms import Bounds, find_alarms, segment_figures
from tests.diagnostics.figures_by_hand import moved, site

NAN = float("nan")


def alarms(*sites, **bounds):
    return [(a.kind, a.site) for a in find_alarms(sites, Bounds(**bounds))]


def test_a_quiet_model_has_none():
    assert alarms(site("a"), site("b", "a")) == []


def test_a_gain_above_its_bound_is_named_once_per_direction_and_segment():
    grown = {"composite_forward": 11.0}
    sites = site("a"), site("b", "a", **grown), site("c", "b", **grown), site("d", segment=1, composite_backward=12.0)
    assert alarms(*sites) == [("gain", "b"), ("gain", "d")]
    assert alarms(*sites, gain=12.5) == []


def test_equal_streams_are_a_collapse_only_in_a_segment_that_was_trained():
    flat = {"spread": 1e-5}
    assert alarms(site("a", **flat), site("b", "a", **flat)) == [("collapse", "b")]
    still = {"parameters": (moved(0.0, None),)}
    assert alarms(site("a", **flat, **still), site("b", "a", **flat, **still)) == []
    one = {"stream_rms": (1.0,), **flat}
    assert alarms(site("a", **one), site("b", "a", **one)) == []


@pytest.mark.parametrize("trouble", ["streams", "parameters", "coefficients", "branch"])
def test_what_is_not_finite_comes_first_and_is_named_where_it_begins(trouble):
    sites = site("a"), site("b", "a", trouble=trouble, composite_forward=NAN), site("c", "b", trouble="streams")
    found = find_alarms(sites, Bounds())
    assert [(a.kind, a.site) for a in found] == [("non-finite", "b")]


def test_a_gradient_that_is_not_finite_is_named():
    found = find_alarms([site("a"), site("b", "a", parameters=(moved(0.1, NAN, "phi"),))], Bounds())
    assert found[0].sentence == "the gradient of phi of b is not finite"


def test_a_site_that_never_moves_is_dead_if_others_do():
    dead = site("b", "a", parameters=(moved(0.0, 0.0),))
    assert alarms(site("a"), dead) == [("dead", "b")]
    assert alarms(site("a", parameters=(moved(0.0),)), dead) == []
    assert alarms(site("a"), site("b", "a", parameters=(moved(0.0, 0.5),))) == []  # it gets a gradient


def test_segments_name_where_gains_are_largest_and_take_the_smallest_spread_behind_the_first_site():
    sites = (
        site("a", spread=0.0),
        site("b", "a", composite_forward=3.0, spread=0.3),
        site("c", "b", composite_backward=NAN),
    )
    (segment,) = segment_figures(sites)
    assert (segment.at_forward, segment.composite_forward, segment.at_backward) == ("b", 3.0, "c")
    assert segment.spread == 0.1 and segment.sites == ("a", "b", "c") and (segment.moved, segment.parameters) == (3, 3)
