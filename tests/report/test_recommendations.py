from __future__ import annotations

import pytest

from mhc_compile.passes.plan.reasons import Reason
from mhc_compile.report.recommendations import recommend
from tests import hand_plans as hand


def test_a_clean_transformer_needs_no_advice() -> None:
    assert recommend(hand.plan([hand.transformer()], (hand.rejection("mask"),))) == ()


def test_a_segment_of_one_site_is_advised_against() -> None:
    advice = recommend(hand.resnet())[0]
    assert "1 segment of a single site gains" in advice
    assert "min_sites=2" in advice
    assert "exclude=['layer4.1']" in advice


def test_leaving_out_everything_is_never_advised() -> None:
    (advice,) = recommend(hand.plan([[hand.site("a", "x")], [hand.site("b", "y")]]))
    assert "2 segments of a single site gain" in advice
    assert "min_sites=2" not in advice and "exclude" not in advice


def test_many_short_segments_are_not_written_out() -> None:
    chains = [[hand.site(f"s{i}", f"x{i}")] for i in range(5)]
    advice = recommend(hand.plan([*chains, hand.transformer(2)]))[0]
    assert "min_sites=2" in advice and "exclude" not in advice


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (Reason.NESTED, 'nested="inner"'),
        (Reason.PROJECTED_SHORTCUT, "stage boundary"),
        (Reason.UNKNOWN_CHANNELS, "example_inputs="),
        (Reason.INPUT_INDEPENDENT, "position embeddings"),
        (Reason.MUTATED, "x = x + y"),
        (Reason.HIGHER_ORDER, "x + torch.cond("),
        (Reason.MULTI_STREAM, "streams of its own"),
    ],
)
def test_a_rejection_that_can_be_acted_on_is_explained_with_its_count(reason: Reason, words: str) -> None:
    rejected = tuple(hand.rejection(f"r{i}", reason) for i in range(3))
    (advice,) = recommend(hand.plan([hand.transformer(2)], rejected))
    assert advice.startswith(f"{reason.name} (3): ")
    assert words in advice


def test_one_stream_is_pointed_out() -> None:
    (advice,) = recommend(hand.plan([hand.transformer(2)], n=1, connection="residual"))
    assert "n=4" in advice


@pytest.mark.parametrize(
    ("rejected", "words"),
    [
        ((), "Nothing that was traced has a float add"),
        ((hand.rejection("a"),), "No add has an operand"),
        ((hand.rejection("a", Reason.EXCLUDED),), "left out by include"),
        ((hand.rejection("a", Reason.HIGHER_ORDER),), "HIGHER_ORDER (1): "),
    ],
)
def test_an_empty_plan_says_what_to_check(rejected: tuple[object, ...], words: str) -> None:
    assert words in recommend(hand.plan([], rejected))[0]  # type: ignore[arg-type]


def test_what_one_graph_lacks_another_may_have() -> None:
    empty, single, chain = hand.plan([]), hand.plan([[hand.site("a", "x")]]), hand.plan([hand.transformer(2)])
    assert recommend(empty, chain) == ()
    (advice,) = recommend(empty, single, chain)
    assert "exclude=['a']" in advice and "no chain is longer" not in advice
    assert "no chain is longer" in recommend(empty, single)[0]


def test_a_graph_that_is_met_twice_counts_once() -> None:
    single = hand.plan([[hand.site("a", "x")]])
    assert recommend(single, single)[0].startswith("1 segment of a single site")


def test_rejections_of_all_graphs_are_counted_together() -> None:
    plans = [hand.plan([hand.transformer(2)], (hand.rejection("r", Reason.NESTED),)) for _ in range(2)]
    (advice,) = recommend(*plans)
    assert advice.startswith("NESTED (2): ")
