from __future__ import annotations

import pytest

from mhc_compile.errors import InvalidOptionError
from mhc_compile.passes.plan.data import Plan
from mhc_compile.passes.plan.reasons import Reason
from mhc_compile.report.roles import roles_of
from tests import hand_plans as hand


def example() -> Plan:
    chain = [
        hand.site("h.0.attn", "add_2", adds=("add_1", "add_2")),
        hand.site("h.0.mlp", "add_3", skip="cast", base="add_2"),
    ]
    folded = hand.rejection("mask_2", Reason.NOT_ANCESTOR, adds=("mask_1", "mask_2"))
    return hand.plan([chain], (folded,), segments=(hand.segment(0, chain, lifts=("cast",)),))


@pytest.mark.parametrize("name", ["h.0.attn", "add_2"])
def test_a_site_is_found_by_key_and_by_node(name: str) -> None:
    role = roles_of(example(), name)[0]
    facts = dict(role.facts)
    assert "becomes a hyper-connection" in role.sentence
    assert facts["site"] == "h.0.attn" and facts["segment"] == "0" and facts["shape"] == "s0\u00d7197\u00d7192 float32"
    assert facts["adds"] == "add_1, add_2" and facts["weights"] == "h.0.attn.weight"
    assert facts["new parameters"] == "18,459" and facts["source"] == "timm/models/vision_transformer.py:169"


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ("add_1", "inner add of the residual sum add_2"),
        ("mask_2", "left alone: no operand is computed from another"),
        ("mask_1", "inner add of mask_2"),
        ("blocks.0", "mask_2 in module blocks.0 is left alone"),
        ("entry_0", "entry of segment 0: its value becomes 4 equal streams"),
        ("cast", "applied to each of its streams"),
        ("h.0.mlp.readout", "read out at add_3 for norm_0"),
        ("norm_0", "norm_0 uses add_3"),
        ("norm_of_add_2", "part of the branch of site h.0.attn"),
        ("skip_of_add_2", "where the branch of site h.0.attn leaves"),
    ],
)
def test_every_part_a_node_can_play_is_explained(node: str, words: str) -> None:
    assert any(words in role.sentence for role in roles_of(example(), node))


def test_a_node_with_several_parts_gets_all_of_them() -> None:
    sentences = [role.sentence for role in roles_of(example(), "add_3")]
    assert any("becomes a hyper-connection" in s for s in sentences)
    assert any("read out at add_3" in s for s in sentences)


def test_a_rejection_shows_reason_detail_and_place() -> None:
    facts = dict(roles_of(example(), "mask_2")[0].facts)
    assert facts["reason"] == "NOT_ANCESTOR" and facts["detail"] == "pos_embed is broadcast"
    assert facts["module"] == "blocks.0" and facts["source"] == "/nowhere/model.py:7"


def test_an_unknown_name_suggests_near_ones() -> None:
    with pytest.raises(InvalidOptionError, match=r"did you mean .*h\.0\.attn"):
        roles_of(example(), "h.0.atn")


def test_a_name_like_no_other_says_what_to_write() -> None:
    with pytest.raises(InvalidOptionError, match="write a site key"):
        roles_of(example(), "zzzzzzzzzzzz")
