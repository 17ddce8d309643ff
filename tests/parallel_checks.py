"""What each process checks of a model under tensor and sequence parallelism, refusals and FSDP2 around it included."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_module
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.parallel import ColwiseParallel, PrepareModuleInput, parallelize_module
from torch.utils._python_dispatch import TorchDispatchMode

import mhc_compile
from benchmarks import scaling
from mhc_compile.errors import ParallelError
from tests.parallel_models import (
    IDS,
    C,
    Layer,
    compare,
    new,
    plain,
    tensor_parallel,
    transformed,
    transformed_from,
    whole,
)


def after(rank, folder, options):
    model, single = transformed(), transformed()
    found = model(IDS)  # a program from before does not serve the calls behind
    tensor_parallel(model, init_device_mesh("cpu", (2,)), **options)
    torch.testing.assert_close(whole(model(IDS)), found)
    compare(model, single, (6, 4))
    assert len(model._mhc.programs) == 1  # which takes both lengths


def before(rank, folder, options):
    model = plain()
    tensor_parallel(model, init_device_mesh("cpu", (2,)), **options)
    compare(transformed_from(model), transformed())


def on_the_mesh(rank, folder):
    """New parameters are distributed, too, as optimizers and clipping want them."""
    model, single = transformed(), transformed()
    mesh = init_device_mesh("cpu", (2,))
    tensor_parallel(model, mesh, sequence=True)
    distribute_module(model.hyper_connections, mesh)
    compare(model, single)
    assert all(isinstance(p.grad, DTensor) and p.grad.placements == (Replicate(),) for p in new(model))
    norms = [whole(nn.utils.clip_grad_norm_(new(m), 1.0)) for m in (model, single)]
    torch.testing.assert_close(*norms)


def single_pass(rank, folder, options):
    """Streams that are read with the weights of the site before."""
    model, single = (transformed(connection="mhc-single-pass") for _ in range(2))
    tensor_parallel(model, init_device_mesh("cpu", (2,)), **options)
    compare(model, single)


def reductions(rank, folder):
    """What `benchmarks.scaling` says: one for all gradients where streams are sharded, none where they are not."""
    on_paper = scaling.Model("Llama", layers=2, width=C, active=1, sequence=6, batch=2)
    for sequence in (False, True):
        counts, sizes = [], []
        for model in (plain(), transformed()):
            tensor_parallel(model, init_device_mesh("cpu", (2,)), sequence=sequence)
            model(IDS)
            with CommDebugMode() as calls, Reduced() as reduced:
                model(IDS).square().mean().backward()
            counts.append(calls.get_total_counts())
            sizes.append(reduced.bytes)
        assert counts[1] - counts[0] == (1 if sequence else 0)
        assert sizes[1] - sizes[0] == scaling.reduced_bytes(on_paper, 1, scaling.Spread(2, sequence))


class Reduced(TorchDispatchMode):
    """What is sent into reductions, in bytes."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # its own calls come next
        if function is torch.ops._c10d_functional.all_reduce.default:
            self.bytes += args[0].numel() * args[0].element_size()
        return function(*args, **(kwargs or {}))


def saved_streams(rank, folder):
    """Under sequence parallelism a process keeps its part of the streams."""
    single, model = transformed(), transformed()
    tensor_parallel(model, init_device_mesh("cpu", (2,)), sequence=True)
    found = []
    for m in (single, model):
        sizes = {}
        m(IDS)
        with torch.autograd.graph.saved_tensors_hooks(partial(note_streams, sizes), lambda tensor: tensor):
            m(IDS)
        found.append(sum(sizes.values()))
    assert found[1] == found[0] / 2 > 0


def note_streams(sizes, tensor):
    if tensor.dim() == 4 and tensor.shape[0] == 4 and tensor.shape[-1] == C:
        sizes[tensor.data_ptr()] = tensor.numel()
    return tensor


def sharded_channels(rank, folder):
    model = transformed()
    mesh = init_device_mesh("cpu", (2,))
    parallelize_module(model, mesh, {"embedding": ColwiseParallel(output_layouts=Shard(-1))})
    with pytest.raises(ParallelError, match="sharded over their channels"):
        model(IDS)


def uneven_sequence(rank, folder):
    for local in (True, False):
        model = transformed()
        tensor_parallel(model, init_device_mesh("cpu", (2,)), sequence=True, local=local)
        with pytest.raises(ParallelError, match="equal part of the sequence"):
            model(IDS[:, :5])


def hooks_on_a_block(rank, folder):
    model = transformed()
    mesh = init_device_mesh("cpu", (2,))
    prepare = PrepareModuleInput(input_layouts=(Replicate(), None), desired_input_layouts=(Replicate(), None))
    parallelize_module(model, mesh, {"layers.0": prepare})
    with pytest.raises(ParallelError, match="holds residual connections"):
        model(IDS)


def behind_a_backend(rank, folder):
    model = plain()
    tensor_parallel(model, init_device_mesh("cpu", (2,)), sequence=True)
    with pytest.raises(ParallelError, match="gradients have to be added up"):
        mhc_compile.backend(n=4, inner="eager").attach(model, example_inputs=(IDS,))


def with_fsdp(rank, folder, options):
    """Two processes of a tensor group, two of a data group, and what comes between the two."""
    model, single = transformed(), transformed()
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    tensor_parallel(model, mesh["tp"], sequence=True)
    if "checkpointed" in options:
        apply_activation_checkpointing(model, check_fn=lambda module: isinstance(module, Layer))
    for block in [*model.layers, model]:
        fully_shard(block, mesh=mesh["dp"])
        block.set_gradient_divide_factor(1.0)
        block.set_force_sum_reduction_for_comms(True)
    here = IDS[mesh["dp"].get_local_rank()][None]
    for _ in range(2):
        for m in (model, single):
            m.zero_grad()
        model(here).square().sum().backward(), single(IDS).square().sum().backward()
        for (name, mine), alone in zip(model.named_parameters(), single.parameters(), strict=True):
            torch.testing.assert_close(whole(mine.grad), alone.grad, rtol=1e-4, atol=1e-5, msg=name)
