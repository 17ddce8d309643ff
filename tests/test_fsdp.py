"""FSDP2 on the blocks and the root of a transformed model: two processes compute what one does on the joint batch."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

import mhc_compile
from benchmarks.allocations import peak_bytes
from examples.train_char_gpt import CharGPT
from mhc_compile.programs.unsharded import own_part
from tests.copies import copied
from tests.ranks import run_ranks
from tests.test_ddp import Net
from tests.test_ddp import transformed as transformed_anew
from tests.toy_models import Block

STEPS = 4


transformed = copied(transformed_anew)


def shard(model, **options):
    options["mesh"] = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    for block in model.blocks:
        fully_shard(block, **options)
    fully_shard(model, **options)


def step(model, optimizer, ids):
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
    loss.backward()
    optimizer.step()
    return loss.detach()


def compare(rank, folder, connection):
    model = transformed(connection=connection, modes=("train", "eval"))
    single = copy.deepcopy(model)
    names = [name for name, _ in model.named_parameters()]
    shard(model)
    assert [name for name, _ in model.named_parameters()] == names
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9) for m in (model, single)]
    for number in range(STEPS):
        start = torch.randint(16, (4, 1), generator=torch.Generator().manual_seed(number))
        ids = (start + torch.arange(6)) % 16
        loss = step(model, optimizers[0], ids[2 * rank : 2 * rank + 2])
        torch.distributed.all_reduce(loss)
        torch.testing.assert_close(loss / 2, step(single, optimizers[1], ids), rtol=0, atol=1e-5)
        for (name, mine), whole in zip(model.named_parameters(), single.parameters(), strict=True):
            torch.testing.assert_close(mine.grad.full_tensor(), whole.grad, rtol=0, atol=1e-5, msg=name)
    model.eval(), single.eval()
    torch.testing.assert_close(model(ids), single(ids), rtol=1e-5, atol=1e-5)


def parameters_of_a_group(rank, folder):
    model = transformed(modes=("train",))
    whole = sum(p.numel() for p in model.parameters())
    shard(model)
    sites = model.hyper_connections["blocks.1"]
    outer = {id(p) for p in model.hyper_connections.children()}
    assert id(sites) not in outer and any(child is sites for child in model.blocks[1].children())
    here = sum(p.to_local().numel() for p in model.parameters())
    assert 0.4 * whole <= here <= 0.6 * whole
    resharded = []
    model.blocks[2].register_forward_hook(lambda *_: resharded.append(sites.phi.to_local().numel() < sites.phi.numel()))
    model(torch.zeros(2, 5, dtype=torch.long))
    assert resharded == [True]  # behind block 1 its hyper-connection is cut again


def peak_of_a_step(rank, folder):
    """Few tokens, so that parameters, gradients and the optimizer are most of it."""
    ids = torch.zeros(1, 16, dtype=torch.long)
    model = mhc_compile.transform(CharGPT(context=16, width=128, layers=4, heads=4), example_inputs=ids)
    shard(model)
    optimizer = torch.optim.AdamW(model.parameters())

    def run():
        nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten()).backward()
        optimizer.step()

    run()
    optimizer.zero_grad()
    states = [value for state in optimizer.state.values() for value in state.values()]
    peak = sum(own_part(t).nbytes for t in (*model.parameters(), *states)) + peak_bytes(run)
    if rank == 0:
        (folder / f"peak-{torch.distributed.get_world_size()}").write_text(str(peak))


@pytest.mark.exhaustive  # what is sharded is counted in the test before
def test_peak_memory_falls_with_the_number_of_processes(tmp_path):
    for size in (1, 2):
        run_ranks(peak_of_a_step, tmp_path, size=size)
    one, two = (int((tmp_path / f"peak-{size}").read_text()) for size in (1, 2))
    assert two < 0.7 * one


def new_kinds_of_calls(rank, folder, whole):
    model = transformed(modes=("train",))
    single = copy.deepcopy(model)
    shard(model, reshard_after_forward=not whole)
    ids = torch.arange(6).view(1, 6)  # a size of 1, and then another mode
    for training in (True, False):
        for m in (model, single):
            m.train(training)
        for _ in range(2):
            found, expected = model(ids), single(ids)
            torch.testing.assert_close(found, expected)
        traced = len(model._mhc.programs)
    found.sum().backward(), expected.sum().backward()
    for mine, alone in zip(model.parameters(), single.parameters(), strict=True):
        torch.testing.assert_close(mine.grad.full_tensor(), alone.grad)
    assert len(model._mhc.programs) == traced == 3


def checkpointed(rank, folder):
    model = transformed(modes=("train",))
    single = copy.deepcopy(model)
    apply_activation_checkpointing(model, check_fn=lambda module: isinstance(module, Block))
    shard(model)
    here = sum(p.to_local().numel() for p in model.parameters())
    assert here <= 0.6 * sum(p.numel() for p in single.parameters())
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (model, single)]
    ids = torch.randint(16, (4, 6), generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        torch.testing.assert_close(step(model, optimizers[0], ids), step(single, optimizers[1], ids))
        for mine, alone in zip(model.parameters(), single.parameters(), strict=True):
            torch.testing.assert_close(mine.grad.full_tensor(), alone.grad)


def nested(rank, folder):
    """The modules that use hyper-connections lie inside those that are sharded."""
    torch.manual_seed(0)
    ids = torch.randint(16, (4, 5))
    model = Net()
    model.blocks = nn.Sequential(*(nn.Sequential(Block(), Block()) for _ in range(2)))
    model = mhc_compile.transform(model, example_inputs=(ids,), modes=("train",))
    single = copy.deepcopy(model)
    shard(model)
    model(ids).square().mean().backward(), single(ids).square().mean().backward()
    for mine, alone in zip(model.parameters(), single.parameters(), strict=True):
        torch.testing.assert_close(mine.grad.full_tensor(), alone.grad)


def mixed_precision(rank, folder):
    model = transformed(modes=("train", "eval"))
    single = copy.deepcopy(model)
    shard(model, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32))
    seen = []
    model.blocks[1].up.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].dtype))
    optimizers = [torch.optim.AdamW(m.parameters(), lr=1e-2) for m in (model, single)]
    ids = torch.randint(16, (4, 6), generator=torch.Generator().manual_seed(0))
    losses = [[step(m, o, ids).item() for _ in range(10)] for m, o in zip((model, single), optimizers, strict=True)]
    assert set(seen) == {torch.bfloat16} and len(model._mhc.programs) == 3
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in model.parameters())
    assert losses[0] == pytest.approx(losses[1], rel=2e-2)
    assert losses[0][-1] < 0.9 * losses[0][0]
    model.eval(), single.eval()
    torch.testing.assert_close(model(ids).float(), single(ids), rtol=0, atol=5e-2)


def in_turn(rank, folder, checks):
    """Several checks in one pair of processes: to start them and to trace the model takes longer than most checks."""
    for check, *arguments in checks:
        check(rank, folder, *arguments)


@pytest.mark.slow
@pytest.mark.parametrize(
    "checks",
    [
        pytest.param(
            [
                (compare, "mhc"),  # sharded blocks train like one process
                (parameters_of_a_group,),  # hyper-connections are sharded with the block that uses them
                (new_kinds_of_calls, False),  # a sharded model is traced for new kinds of calls
                (checkpointed,),  # blocks under activation checkpointing are sharded
                (nested,),  # hyper-connections of modules inside a sharded one are sharded once
                (mixed_precision,),  # a policy of mixed precision computes in its dtype
            ],
            id="few",
        ),
        # Another number of gathered parameters; and what gathers once, not twice.
        pytest.param([(compare, "hc"), (new_kinds_of_calls, True)], id="more", marks=pytest.mark.exhaustive),
        pytest.param(
            [
                (compare, name)
                for name in (
                    "mhc-single-pass",
                    "mhc-lite",
                    "kronecker",
                    "circulant",
                    "identity",
                    "gated",
                    "attention",
                    "dense:rank=2",
                )
            ],
            id="others",
            marks=pytest.mark.exhaustive,
        ),
    ],
)
def test_two_sharded_processes_compute_what_one_does(checks, tmp_path):
    run_ranks(in_turn, tmp_path, checks)
