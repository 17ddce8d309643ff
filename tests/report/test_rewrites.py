from __future__ import annotations

import io
import json

import pytest
import torch
from rich.console import Console
from torch import nn

from mhc_compile.config import Config
from mhc_compile.errors import InvalidOptionError, MissingInputsError, NothingToTransformError
from mhc_compile.report.rewrites import Rewrites, typical_site, watch_rewrites
from mhc_compile.report.rewrites_table import render_rewrites
from tests import hand_plans as hand
from tests.toy_models import WIDTH, Tower


@pytest.fixture(scope="module")
def found() -> Rewrites:
    return watch_rewrites(Tower(), Config(), example_inputs=(torch.randn(4, 5, WIDTH),))


def test_the_site_is_the_second_of_those_that_are_repeated_most(found: Rewrites) -> None:
    assert found.site.key == "blocks.1"
    odd = hand.site("neck", "add_n", kind="postact")
    assert typical_site(hand.plan([[odd, *hand.transformer(3)]])).key == "blocks.1.attn"
    assert typical_site(hand.plan([[odd]])).key == "neck"


def test_around_the_site_the_add_becomes_a_write(found: Rewrites) -> None:
    before = "\n".join(found.around(found.records[0], after=False))
    after = "\n".join(found.around(found.records[-1], after=True))
    assert "add(" in before and "boundary(" not in before
    assert "boundary(" in after and "= add(" not in after and "self.blocks.1.down.weight" in after


def test_a_pass_that_leaves_the_site_alone_has_no_changes(found: Rewrites) -> None:
    by_name = {record.name: record for record in found.records}
    assert found.changes(by_name["plan"]) == ()
    changes = found.changes(by_name["rewrite"])
    assert {line[0] for line in changes} == {"+", "-", " "}
    assert any(line.startswith("- ") and "add(" in line for line in changes)


def test_the_table_and_the_json_show_every_pass(found: Rewrites) -> None:
    stream = io.StringIO()
    render_rewrites(found, Console(file=stream, width=10_000), target="tower")
    text = stream.getvalue()
    loaded = json.loads(json.dumps(found.to_dict()))
    assert loaded["site"] == "blocks.1" and [p["name"] for p in loaded["passes"]][:3] == ["inline", "normalise", "plan"]
    for each in loaded["passes"]:
        assert each["name"] in text and each["does"] in text and each["after"]
    assert "what rewrite changes" in text and "what plan changes" not in text


def test_user_errors_are_named() -> None:
    x = (torch.randn(4, 5, WIDTH),)
    with pytest.raises(InvalidOptionError, match=r"no site 'blocks\.9': did you mean"):
        watch_rewrites(Tower(), Config(), "blocks.9", example_inputs=x)
    with pytest.raises(NothingToTransformError):
        watch_rewrites(nn.Linear(WIDTH, WIDTH), Config(), example_inputs=x)
    with pytest.raises(MissingInputsError):
        watch_rewrites(Tower(), Config())
