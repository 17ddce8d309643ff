"""Random calls of a transformed model, and what is done to it in between, beside its formula.

Everything is done twice, to the transformed model and to a plain one whose hyper-connections are a formula; after each
action results, attributes, hook records and gradients are the same.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import torch
from hypothesis import strategies as st

from tests.fuzz.actions import ACTIONS, Action
from tests.fuzz.pair import Pair
from tests.fuzz.streams import BRANCHES, FORMS, LIFTED, Drawn

MOST_ACTIONS = 5


def cases() -> st.SearchStrategy[tuple[Drawn, tuple[Action, ...]]]:
    """A network and what is done to it."""
    layers = st.lists(st.sampled_from([*FORMS, *FORMS, *LIFTED, "mix"]), max_size=2).map(tuple)
    drawn = st.builds(
        Drawn,
        images=st.booleans(),
        layers=st.builds(lambda kind, rest: (kind, *rest), st.sampled_from([*FORMS]), layers),
        branch=st.sampled_from(BRANCHES),
        keeps=st.sampled_from([frozenset(), frozenset(), frozenset({"loss"}), frozenset({"count", "loss"})]),
        connection=st.sampled_from(["mhc", "mhc", "hc", "identity"]),
        n=st.integers(2, 4),  # one stream has no parameters
        seed=st.integers(0, 2**16),
    )
    action = st.tuples(st.sampled_from([*ACTIONS]), st.integers(0, 2), st.sampled_from([0.0, 0.5, 1.0]))
    return st.tuples(drawn, st.lists(action, min_size=1, max_size=MOST_ACTIONS).map(tuple))


def check_calls(drawn: Drawn, actions: tuple[Action, ...]) -> None:
    """All checks on one case."""
    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pair = Pair(drawn)
        pair.check("transform")
        for name, index, value in actions:
            ACTIONS[name](pair, index, value)
            pair.check(f"{name}({index}, {value})")


def actions_in_turn() -> Iterator[tuple[Action, ...]]:
    """Every action once, in cases of a few."""
    names = [*ACTIONS]
    for start in range(0, len(names), MOST_ACTIONS):
        yield tuple((name, 0, 1.0) for name in names[start : start + MOST_ACTIONS])
