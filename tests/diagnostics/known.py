"""A model with hand-made mixing matrices, and what `diagnose` has to say of it."""

from __future__ import annotations

import pytest
import torch

from tests.diagnostics.hand import KNOWN, set_mixing, tower

KEYS = [f"blocks.{i}" for i in range(4)]


def assert_known(found):
    """One of each matrix: single gains as they are, composites as their products."""
    for site, (R, *figures) in zip(found.sites, KNOWN.values(), strict=True):
        forward, backward, singular, identity, uniform, entropy = figures
        assert site.gain_forward == pytest.approx(forward, abs=1e-6)
        assert site.gain_backward == pytest.approx(backward, abs=1e-6)
        assert site.singular_values == pytest.approx(singular, abs=1e-6)
        assert site.from_identity == pytest.approx(identity, abs=1e-6)
        assert site.from_uniform == pytest.approx(uniform, abs=1e-6)
        assert site.entropy == pytest.approx(entropy, abs=1e-6)
        assert torch.tensor(site.mixing).double().sub(R).abs().max() < 1e-6
    assert [s.composite_forward for s in found.sites] == pytest.approx([1, 1, 1, 1.5], abs=1e-6)
    assert [s.composite_backward for s in found.sites] == pytest.approx([1.5] * 4, abs=1e-6)
    assert [s.before for s in found.sites] == ["", *KEYS[:3]]


def with_known_mixing():
    model, x = tower()
    set_mixing(model, {key: R for key, (R, *_) in zip(KEYS, KNOWN.values(), strict=True)})
    return model, x
