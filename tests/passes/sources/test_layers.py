"""Which sites are one layer: what numbers in keys tell."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mhc_compile.passes.sources.layers import layers_of
from tests import hand_plans as hand


def sites(*keys: str):
    site = hand.site("", "add")
    return [replace(site, key=key, module=key.rpartition(".")[0]) for key in keys]


@pytest.mark.parametrize(
    ("keys", "layers"),
    [
        (("h.0.attn", "h.0.mlp", "h.1.attn", "h.1.mlp"), "0011"),
        (("enc.block.0.layer.0", "enc.block.0.layer.1", "enc.block.1.layer.0", "enc.block.1.layer.1"), "0011"),
        (("layers.2.blocks.0.attn", "layers.2.blocks.0.mlp", "layers.2.blocks.1.attn"), "001"),
        (("layer.attn", "layer.mlp", "layer.attn#2", "layer.mlp#2"), "0011"),  # the same weights again
        (("block1.attn", "block1.mlp", "block2.attn"), "001"),
        (("attns.0", "mlps.0", "attns.1", "mlps.1"), "0011"),
        (("h.0.attn", "h.0.mlp"), "00"),
        (("stem.attn", "stem.mlp", "body.attn"), "001"),  # no numbers: by module
    ],
)
def test_layers_are_told_by_the_first_number_that_differs(keys, layers):
    found = layers_of(sites(*keys))
    names = list(dict.fromkeys(found.values()))
    assert "".join(str(names.index(layer)) for layer in found.values()) == layers
    assert list(found) == list(keys)
