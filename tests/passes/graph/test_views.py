"""What shares memory with what is written to, whatever operator made the view."""

from __future__ import annotations

import pytest
import torch

from tests.passes.graph.test_normalise import check


@pytest.mark.parametrize("view", [
    lambda y: y.data,
    lambda y: y.cpu(),
    lambda y: y.mH,
    lambda y: y.ravel(),
    lambda y: y.conj(),
    lambda y: torch.positive(y),
    lambda y: torch.atleast_3d(y),
    lambda y: torch.broadcast_tensors(y.new_ones(1), y)[1],
    lambda y: y.unsafe_chunk(2, -1)[1],
    lambda y: torch.hsplit(y, 2)[0],
    lambda y: torch.view_as_real(torch.view_as_complex(y.unflatten(-1, (-1, 2)))),
])  # fmt: skip
def test_a_write_through_any_view_is_seen_by_what_it_views(view):
    def body(m, x):
        y = m.f(x)
        with torch.no_grad():
            view(y).mul_(2.0)
        return x + y

    check(body, remaining=1)
