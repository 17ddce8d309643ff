from __future__ import annotations

import pytest
import torch

from tests.moved import Net, X
from tests.verification.faults import break_rewrite
from tests.zoo import verified


@pytest.fixture(autouse=True)
def _small_model(monkeypatch):
    monkeypatch.setattr(verified, "EXPECTED", {"net": {"sites": 2}, "plain": {"sites": 1}})
    models = {"net": Net, "plain": lambda: torch.nn.Linear(*X.shape[-1:], 3)}
    monkeypatch.setattr(verified, "build", lambda target, train: (models[target](), (X,), {}))


def test_every_claim_holds_in_double_precision():
    result = verified.check_verified("net")
    assert result.passed and result.sites == 2
    assert set(result.errors) == {f"{m} {what}" for m in ("train", "eval") for what in ("start", "plan")} | {
        "both modes"
    }
    assert max(result.errors.values()) < 1e-12


def test_a_wrong_rewrite_fails_with_the_module(monkeypatch):
    break_rewrite(monkeypatch)
    result = verified.check_verified("net")
    assert not result.passed and "the rewrite is wrong, first in blocks.0" in result.failure


def test_nothing_found_where_sites_were_counted_fails():
    assert verified.check_verified("plain").failure == "nothing was rewritten"
