"""DeepSpeed's ZeRO on two processes computes what one does: `docs/distributed.md` says how to start it."""

from __future__ import annotations

import os

import pytest
import torch
from torch.nn import functional as F

import mhc_compile
from tests.parallel_models import IDS, transformed
from tests.ranks import run_ranks

pytest.importorskip("deepspeed", reason="DeepSpeed is not installed: pip install deepspeed")
pytestmark = [pytest.mark.exhaustive, pytest.mark.slow]  # engines in processes of their own, where installed

STEPS, RATE = 3, 0.1


def loss_of(model, ids):
    return F.cross_entropy(model(ids).flatten(0, 1), ids.flatten())


def alone():
    model = transformed()
    optimizer = torch.optim.SGD(mhc_compile.parameter_groups(model), lr=RATE)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = loss_of(model, IDS)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model, losses


def in_deepspeed(rank, folder, stage):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", DS_ACCELERATOR="cpu")
    import deepspeed

    deepspeed.init_distributed("gloo", auto_mpi_discovery=False)
    model = transformed()
    groups = mhc_compile.parameter_groups(model)
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True,
        "gradient_clipping": 0.0,  # the default clips to a norm of 1
    }
    engine, *_ = deepspeed.initialize(
        model=model, model_parameters=groups, optimizer=torch.optim.SGD(groups, lr=RATE), config=config
    )
    single, expected = alone()
    for wanted in expected:
        loss = loss_of(engine, IDS[rank : rank + 1])
        engine.backward(loss)
        engine.step()
        mean = loss.detach().clone()
        torch.distributed.all_reduce(mean)
        assert mean.item() / 2 == pytest.approx(wanted, rel=1e-5)
    with deepspeed.zero.GatheredParameters(list(model.parameters())):
        for (name, mine), theirs in zip(model.named_parameters(), single.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_zero_computes_what_one_process_does(stage, tmp_path):
    run_ranks(in_deepspeed, tmp_path, stage)
