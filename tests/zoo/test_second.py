from __future__ import annotations

import linecache
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.zoo import second
from tests.zoo.build import EXPECTED, FIRST, build
from tests.zoo.model import Model, Part
from tests.zoo.second import EXPECTED_SECOND, SECOND, missing

_ADDS = ("+", " - ", ".add(", ".lerp(", ".gru(")


def test_every_model_has_a_count_and_the_zoos_do_not_overlap():
    assert set(SECOND) == set(EXPECTED_SECOND) and not set(SECOND) & set(FIRST)
    assert len(SECOND) >= 60 and len(EXPECTED) == len(FIRST) + len(SECOND)


def test_every_count_says_where_the_adds_are():
    for target, facts in EXPECTED_SECOND.items():
        assert facts["where"] and facts["notes"], target
        for place in facts["where"]:
            line = _line(place)
            assert line is None or any(add in line for add in _ADDS), f"{target}: {place} adds nothing: {line}"


def _line(place: str) -> str | None:
    """The source line that a count names; None where its package is not installed."""
    file, _, number = place.rpartition(":")
    package, _, rest = file.partition("/")
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return linecache.getline(str(Path(spec.submodule_search_locations[0]) / rest), int(number))


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(second, "find_spec", lambda package: None)
    assert missing("monai:unet").startswith("monai is not installed")
    assert not missing("hf:bert")


def test_a_model_is_made_of_parts_that_are_loaded_when_it_is():
    layers = Part("torch.nn:TransformerEncoderLayer", {"d_model": 8, "nhead": 2})
    model = Model(
        "torch.nn:TransformerEncoder", lambda: (torch.randn(2, 3, 8),), {"encoder_layer": layers, "num_layers": 2}
    )
    assert isinstance(model.make(), nn.TransformerEncoder) and model.call()[1] == {}


@pytest.mark.skipif(bool(missing("vit_pytorch:cait")), reason=missing("vit_pytorch:cait"))
def test_the_second_zoo_is_built_like_the_first():
    (a, x, _), (b, y, _) = build("vit_pytorch:cait"), build("vit_pytorch:cait", train=True)
    assert torch.equal(x[0], y[0]) and not a.training and b.training
