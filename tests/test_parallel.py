"""Tensor and sequence parallelism put round the modules of a model: processes compute what one does."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.distributed._functional_collectives import all_to_all_single_autograd
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_module, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import mhc_compile
from benchmarks import scaling
from mhc_compile.errors import ParallelError
from tests.copies import copied
from tests.ranks import run_ranks

C, HEADS, VOCABULARY = 16, 4, 12
EXHAUSTIVE = pytest.mark.exhaustive


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(C, C, bias=False) for _ in range(4))

    def forward(self, x, scale, *, causal=True):
        q, k, v = (f(x).unflatten(-1, (-1, C // HEADS)).transpose(1, 2) for f in (self.q, self.k, self.v))
        return self.o(F.scaled_dot_product_attention(q * scale, k, v, is_causal=causal).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.gate, self.down = nn.Linear(C, 2 * C), nn.Linear(C, 2 * C), nn.Linear(2 * C, C)

    def forward(self, x):
        return {"y": self.down(F.silu(self.gate(x)) * self.up(x))}


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList(nn.RMSNorm(C) for _ in range(2))
        self.attention, self.mlp = Attention(), FeedForward()

    def forward(self, x, scale):
        x = x + self.attention(self.norms[0](x), scale, causal=True)
        return x + self.mlp(self.norms[1](x))["y"]


class Llama(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, C)
        self.layers = nn.ModuleList(Layer() for _ in range(2))
        self.norm, self.head = nn.RMSNorm(C), nn.Linear(C, VOCABULARY, bias=False)
        self.register_buffer("scale", torch.tensor(1.1))

    def forward(self, ids):
        x = self.embedding(ids)
        for layer in self.layers:
            x = layer(x, self.scale)
        return self.head(self.norm(x))


def plain():
    torch.manual_seed(0)
    return Llama()


IDS = torch.randint(VOCABULARY, (2, 6), generator=torch.Generator().manual_seed(1))


@copied
def transformed(**options):
    return transformed_from(plain(), **options)


def transformed_from(model, **options):
    model = mhc_compile.transform(model, n=4, example_inputs=(IDS,), modes=("train",), **options)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.hyper_connections.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def tensor_parallel(model, mesh, *, sequence=False, local=True):
    """The plans that people write; `sequence` leaves the stream sharded over the sequence between the modules."""
    here = Shard(1) if sequence else Replicate()
    options = {"use_local_output": local}
    outer = {"embedding": RowwiseParallel(input_layouts=Replicate(), output_layouts=here, **options),
             "head": ColwiseParallel(input_layouts=here, output_layouts=Replicate())}  # fmt: skip
    inner = {name: ColwiseParallel() for name in ("attention.q", "attention.k", "attention.v", "mlp.up", "mlp.gate")}
    inner |= {name: RowwiseParallel(output_layouts=here, **options) for name in ("attention.o", "mlp.down")}
    inner["mlp"] = PrepareModuleInput(input_layouts=here, desired_input_layouts=Replicate())
    inner["attention"] = PrepareModuleInput(
        input_layouts=(here, None), desired_input_layouts=(Replicate(), None), use_local_output=True
    )
    if sequence:
        outer["norm"] = SequenceParallel()
        inner |= {f"norms.{i}": SequenceParallel() for i in range(2)}
    elif not local:  # a stream that is a DTensor wants weights that are
        for norm in [model.norm, *(norm for layer in model.layers for norm in layer.norms)]:
            distribute_module(norm, mesh)
    parallelize_module(model, mesh, outer)
    for layer in model.layers:
        parallelize_module(layer, mesh, inner)


def whole(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def compare(model, single, sequences=(6,)):
    for length in sequences:
        ids = IDS[:, :length]
        for m in (model, single):
            m.zero_grad()
        found, expected = whole(model(ids)), single(ids)
        torch.testing.assert_close(found, expected)
        found.square().mean().backward(), expected.square().mean().backward()
        for (name, mine), alone in zip(model.named_parameters(), single.parameters(), strict=True):
            torch.testing.assert_close(whole(mine.grad), alone.grad, rtol=1e-4, atol=1e-6, msg=name)


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


def new(model):
    return list(model.hyper_connections.parameters())


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


def forward_that_talks(rank, folder):
    """Context parallelism: each process has a part of the sequence, and attention gathers the rest."""
    model, single = transformed(), transformed()
    mesh = init_device_mesh("cpu", (2,))
    for block in [*model.layers, model]:
        fully_shard(block, mesh=mesh)
        block.set_gradient_divide_factor(1.0)
        block.set_force_sum_reduction_for_comms(True)
    for layer in model.layers:
        layer.attention.forward = partial(attend_everywhere, layer.attention, mesh, rank)
    here = IDS.chunk(2, 1)[rank]
    model(here).square().sum().backward(), single(IDS).square().sum().backward()
    for (name, mine), alone in zip(model.named_parameters(), single.parameters(), strict=True):
        torch.testing.assert_close(whole(mine.grad), alone.grad, rtol=1e-4, atol=1e-5, msg=name)


def attend_everywhere(self, mesh, rank, x, scale, *, causal):
    q, k, v = (f(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
    parts = (DTensor.from_local(t, mesh, [Shard(2)], run_check=False) for t in (k, v))
    k, v = (t.redistribute(placements=[Replicate()]).to_local(grad_placements=[Partial()]) for t in parts)
    causal = torch.arange(k.shape[2]) <= rank * q.shape[2] + torch.arange(q.shape[2])[:, None]
    return self.o(F.scaled_dot_product_attention(q * scale, k, v, attn_mask=causal).transpose(1, 2).flatten(2))


class Experts(nn.Module):
    """Each token goes to the expert that its number names."""

    def __init__(self):
        super().__init__()
        self.up, self.down = (nn.Parameter(torch.randn(2, C, C) / 4) for _ in range(2))

    def forward(self, x):
        return {"y": sum(F.silu(x @ self.up[e]) @ self.down[e] * chosen(x, e) for e in range(2))}


def chosen(x, expert):
    return (torch.arange(x.shape[1]) % 2 == expert).to(x.dtype)[:, None]


def experts_elsewhere(rank, folder):
    """Expert parallelism: tokens are sent to the process that has their expert, and come back."""
    made = [plain(), plain()]
    for model in made:
        torch.manual_seed(3)
        for layer in model.layers:
            layer.mlp = Experts()
    model, single = map(transformed_from, made)
    mesh = init_device_mesh("cpu", (2,))
    for layer in model.layers:
        for name, value in list(layer.mlp.named_parameters()):
            setattr(layer.mlp, name, nn.Parameter(distribute_tensor(value.detach(), mesh, [Shard(0)])))
        layer.mlp.forward = partial(send, layer.mlp, mesh)
    for m, ids in ((model, IDS[rank][None]), (single, IDS)):
        m(ids).square().sum().backward()
    for (name, mine), alone in zip(model.named_parameters(), single.parameters(), strict=True):
        total = whole(mine.grad).clone()
        if not isinstance(mine, DTensor):
            torch.distributed.all_reduce(total)
        torch.testing.assert_close(total, alone.grad, rtol=1e-4, atol=1e-5, msg=name)


def send(self, mesh, x):
    """To `[processes, tokens, C]` of this expert, through it, and back."""
    parts = torch.stack([x[:, e::2].flatten(0, 1) for e in range(2)])
    here = all_to_all_single_autograd(parts, None, None, mesh.get_group())
    up, down = (p.to_local()[0] for p in (self.up, self.down))
    back = all_to_all_single_autograd(F.silu(here @ up) @ down, None, None, mesh.get_group())
    return {"y": torch.stack(list(back.unflatten(1, (x.shape[0], -1))), 2).flatten(1, 2)}


def test_new_parameters_are_marked_for_megatron_as_norms_are():
    model = plain()
    assert not any(hasattr(p, "sequence_parallel") for p in new(transformed_from(model)))
    model.norm.weight.sequence_parallel = True
    assert all(p.sequence_parallel for p in new(transformed_from(model)))


def test_a_stage_that_an_engine_cuts_out_is_refused():
    part = copy.deepcopy(transformed())
    del part.layers[1]
    part.norm = part.head = None
    with pytest.raises(ParallelError, match="as in a stage"):
        part(IDS)


def in_turn(rank, folder, checks):
    for check, *arguments in checks:
        check(rank, folder, *arguments)


FEW = [
    (after, {"sequence": True}),  # plain local tensors, gradients that have to be added up
    (before, {"sequence": True, "local": False}),  # DTensors
    (forward_that_talks,),
    (experts_elsewhere,),
    (single_pass, {"sequence": True}),
    (sharded_channels,),
    (uneven_sequence,),
    (hooks_on_a_block,),
]
MORE = [
    (after, {}),
    (after, {"local": False}),
    (after, {"sequence": True, "local": False}),
    (before, {}),
    (before, {"sequence": True}),
    (on_the_mesh,),
    (reductions,),
    (saved_streams,),
    (behind_a_backend,),
    (single_pass, {"sequence": True, "local": False}),
    (single_pass, {}),
]


@pytest.mark.slow
@pytest.mark.parametrize("checks", [pytest.param(FEW, id="few"), pytest.param(MORE, id="more", marks=EXHAUSTIVE)])
def test_two_processes_compute_what_one_does(checks, tmp_path):
    run_ranks(in_turn, tmp_path, checks)


@EXHAUSTIVE
def test_four_processes_with_tensor_parallelism_inside_of_fsdp(tmp_path):
    run_ranks(in_turn, tmp_path, [(with_fsdp, ""), (with_fsdp, "checkpointed")], size=4)
