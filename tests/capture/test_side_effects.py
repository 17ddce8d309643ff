from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from tests.moved import X, moved, programs
from tests.tables import also
from tests.toy_models import Block


class Taking(nn.Module):
    """Takes a dict, as trainers hand over their batches."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(Block(), Block())

    def forward(self, batch: dict[str, Any]) -> Tensor:
        return self.body(batch["x"])


class Writing(Taking):
    def forward(self, batch: dict[str, Any]) -> Tensor:
        y = super().forward(batch)
        batch["y"] = y
        return y


class Appending(Taking):
    def forward(self, batch: dict[str, Any]) -> Tensor:
        y = super().forward(batch)
        batch["losses"].append(y.mean())
        return y


class Popping(Taking):
    def forward(self, batch: dict[str, Any]) -> Tensor:
        return self.body(batch.pop("x"))


def given() -> dict[str, Any]:
    return {"x": X, "losses": []}


@pytest.mark.parametrize("make", [Writing, *also(Appending, Popping)])
def test_what_a_call_does_to_a_dict_that_it_is_given_happens(make):
    t = moved(make(), example_inputs=(given(),))
    batch = given()
    y = t(batch)
    assert ("x" in batch) == (make is not Popping)
    if make is Writing:
        assert_close(batch["y"], y)
    if make is Appending:
        batch["losses"][0].backward()
        assert all(p.grad is not None for p in t.hyper_connections.parameters())


def test_containers_that_are_only_read_leave_it_one_graph():
    t = moved(Taking(), example_inputs=(given(),))
    t(given())
    assert programs(t) == 1


class KeepingAside(Taking):
    """Keeps a loss, behind blocks of its own, and returns something else."""

    def __init__(self) -> None:
        super().__init__()
        self.side, self.loss = nn.Sequential(Block(), Block()), torch.zeros(())

    def forward(self, batch: dict[str, Any]) -> Tensor:
        self.loss = self.side(batch["x"]).square().mean()
        return super().forward(batch)


def test_residual_connections_that_lead_to_something_kept_alone_are_in_the_plan():
    t = moved(KeepingAside(), example_inputs=(given(),))
    assert {site.module for site in t.mhc_plan.sites} == {"body.0", "body.1", "side.0", "side.1"}
    t(given())
    t.loss.backward()
    assert all(p.grad is not None for n, p in t.hyper_connections.named_parameters() if n.startswith("side"))
