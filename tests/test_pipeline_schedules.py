"""Stages in two processes, under PyTorch's own schedules, train and evaluate as the whole model does."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

from tests.ranks import run_ranks
from tests.staged_decoder import BATCH, LENGTH, MICRO, STEPS, WORDS, batch, cut, decoder, loss_of

SCHEDULES = [ScheduleGPipe, Schedule1F1B]


def trained_in_a_pipeline(rank, folder, cases):
    for connection, kinds in cases:
        model = decoder(connection=connection, init="random")
        single, start = copy.deepcopy(model), copy.deepcopy(model.state_dict())
        stage = cut(model, "blocks.2")[rank]
        for kind in kinds:
            single.load_state_dict(start)
            stage.load_state_dict(start)
            compare(rank, stage, kind(wrapped(stage, rank), BATCH // MICRO, loss_fn=loss_of), single)
        other_batch_sizes(rank, stage)


def wrapped(stage, rank):
    return PipelineStage(stage, rank, 2, torch.device("cpu"))


def compare(rank, stage, schedule, single):
    """Loss and every gradient of every step; then an evaluation through the same schedule."""
    first = None
    optimizers = [torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9) for module in (stage, single)]
    for step in range(STEPS):
        ids, keep, labels = batch(step)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss = loss_of(single(ids, keep), labels)
        loss.backward()
        losses = []
        schedule.step(*((ids, keep) if rank == 0 else ()), target=labels if rank else None, losses=losses)
        if rank:
            torch.testing.assert_close(torch.stack(losses).mean(), loss, rtol=0, atol=1e-5)
        check_gradients(stage, single, step)
        for optimizer in optimizers:
            optimizer.step()
        first = first or float(loss)
    assert float(loss) < first - 0.1, "nothing was learned, so gradients were hardly compared"
    ids, keep, labels = batch(100)
    output = schedule.eval(*((ids, keep) if rank == 0 else ()), target=labels if rank else None, losses=[])
    if rank:
        torch.testing.assert_close(output, single(ids, keep), rtol=0, atol=1e-5)


def check_gradients(stage, single, step):
    whole = dict(single.named_parameters())
    for name, parameter in stage.named_parameters():
        difference = (parameter.grad - whole[name].grad).abs().max()
        assert difference <= 1e-5, f"step {step}: {name} differs by {difference}"


# Schedules know nothing of connections: the other one and "hc", which sends streams as well, are for `make exhaustive`.
@pytest.mark.slow
@pytest.mark.parametrize(
    "cases",
    [
        pytest.param([("mhc", [Schedule1F1B])], id="few"),
        pytest.param(
            [("mhc", [ScheduleGPipe]), ("hc", SCHEDULES), ("mhc-single-pass", SCHEDULES)],
            id="more",
            marks=pytest.mark.exhaustive,
        ),
    ],
)
def test_two_processes_compute_losses_and_gradients_of_one_and_a_new_schedule_takes_another_batch_size(cases, tmp_path):
    run_ranks(trained_in_a_pipeline, tmp_path, cases)


def other_batch_sizes(rank, stage):
    """PyTorch fixes the sizes at the first step of a schedule; a stage itself takes any batch."""
    for size in (4, 6):
        schedule = ScheduleGPipe(wrapped(stage, rank), 2, loss_fn=loss_of)
        ids, keep, labels = batch(size=size)
        logits = schedule.step(*((ids, keep) if rank == 0 else ()), target=labels if rank else None, losses=[])
        assert rank == 0 or logits.shape == (size, LENGTH, WORDS)
