"""Property test: however a transformed model is called and changed in between, it is the formula of its plan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import nn

from tests.fuzz.calls import actions_in_turn, cases, check_calls
from tests.fuzz.checks import FuzzError
from tests.fuzz.pair import Pair
from tests.fuzz.spec import Collect, Network, Res
from tests.fuzz.streams import Drawn
from tests.fuzz.whole_calls import ACTIONS, check_whole_calls
from tests.fuzz.whole_calls import Pair as WholePair
from tests.fuzz.whole_calls import cases as whole_cases
from tests.tables import also

SETTINGS = {"deadline": None, "database": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors are tiny: threads only get in each other's way."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    torch.compiler.reset()


@settings(max_examples=3, **SETTINGS)
@given(cases())
def test_calls_are_the_formula(case):
    """With four streams: each number needs C++ kernels of its own."""
    drawn, actions = case
    check_calls(replace(drawn, n=4), actions)


@pytest.mark.exhaustive
@settings(max_examples=60, **SETTINGS)
@given(cases())
def test_more_calls_are_the_formula(case):
    check_calls(*case)


@pytest.mark.parametrize("actions", actions_in_turn(), ids=lambda actions: actions[0][0])
def test_every_action_once(actions):
    check_calls(Drawn(images=False, layers=("pre_norm", "activation", "scaled_skip")), actions)


def test_every_action_once_where_branches_keep_something():
    check_calls(Drawn(False, ("pre_norm", "plain"), keeps=frozenset({"loss", "count", "list"})), (("step", 0, 1.0),))


WHOLE = Network(images=False, channels=4, start="stem", body=(Res("pre_norm"), Collect(), Res("post_norm", uses=2)))
LARGE = replace(
    WHOLE, towers=((Res("plain"),), (Res("pre_norm"), Res("plain"))), encoder=(Res("pre_norm"), Res("plain"))
)


@pytest.mark.parametrize(
    ("net", "names"), [(WHOLE, ("set_eps", "change_by_hook", "step")), *also((LARGE, (*ACTIONS,)))]
)
def test_whole_networks_are_the_plan_of_a_fresh_trace(net, names):
    check_whole_calls(net, tuple((name, 2, 1.0) for name in names))  # of layers, the first of a branch


def test_a_part_of_a_whole_network_is_what_it_is_inside():
    check_whole_calls(replace(WHOLE, encoder=(Res("pre_norm"), Res("plain"))), (("call_part", 0, 1.0),))


@pytest.mark.exhaustive
@settings(max_examples=40, **SETTINGS)
@given(whole_cases())
def test_more_whole_networks_are_the_plan_of_a_fresh_trace(case):
    check_whole_calls(*case)


def test_what_is_stale_in_a_whole_network_is_noticed():
    pair = WholePair(WHOLE)
    pair.check("transform")
    pair.modules(nn.LayerNorm, 0)[1].eps = 1.0
    with pytest.raises(FuzzError, match="after a change of one of the two: output 0 is off by"):
        pair.check("a change of one of the two")


def test_what_is_stale_is_noticed():
    pair = Pair(Drawn(False, ("plain",)))
    pair.check("transform")
    pair.branches(0)[1].scale = 2.0
    with pytest.raises(FuzzError, match="the result is off by"):
        pair.check("a change of one of the two")


def test_a_hook_that_does_not_fire_is_noticed():
    pair = Pair(Drawn(False, ("plain",)))
    pair.branches(0)[1].register_forward_hook(lambda module, args, out: pair.records[1].append(out))
    with pytest.raises(FuzzError, match="hooks fired 0 times instead of 1"):
        pair.check("a hook on one of the two")
