from __future__ import annotations

import pytest

from tests.verification.faults import break_rewrite, break_trace


@pytest.fixture
def wrong_rewrite(monkeypatch):
    break_rewrite(monkeypatch)


@pytest.fixture
def wrong_trace(monkeypatch):
    break_trace(monkeypatch)
