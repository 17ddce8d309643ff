"""torchtitan's models on gloo processes: does each layout compute what one process does? Prints a table in Markdown.

    python -m benchmarks.layouts [--family llama3 ...] [--layout tp2 ...] [--plain]

Needs torchtitan 0.3.0. New parameters are moved by noise first. Each data-parallel process gets its own part of the
batch, each context-parallel one its own part of the sequence. `--plain` checks the harness: the same without
hyper-connections.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import tempfile
import types
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

FAMILIES = ("llama3", "qwen3", "deepseek_v3")
BATCH, LENGTH, STEPS, RATE = 4, 32, 3, 0.1


@dataclass(frozen=True)
class Layout:
    """Degrees of each kind of parallelism, and what else torchtitan is told."""

    fsdp: int = 1
    tp: int = 1
    sequence: bool = False
    cp: int = 1
    ep: int = 1
    pp: int = 1
    schedule: str = "1F1B"
    checkpointing: str = ""
    compiled: bool = False

    @property
    def world(self) -> int:
        """Number of processes."""
        return self.fsdp * self.tp * self.cp * self.pp


LAYOUTS = {
    "fsdp4": Layout(fsdp=4),
    "tp2": Layout(tp=2),
    "tp4": Layout(tp=4),
    "tp2-sp": Layout(tp=2, sequence=True),
    "fsdp2-tp2-sp": Layout(fsdp=2, tp=2, sequence=True),
    "fsdp2-tp2-sp-full-ac": Layout(fsdp=2, tp=2, sequence=True, checkpointing="full"),
    "fsdp2-tp2-sp-selective-ac": Layout(fsdp=2, tp=2, sequence=True, checkpointing="selective"),
    "tp2-sp-compiled": Layout(tp=2, sequence=True, compiled=True),
    "fsdp2-cp2": Layout(fsdp=2, cp=2),
    "fsdp2-ep2": Layout(fsdp=2, ep=2),
    "fsdp2-pp2": Layout(fsdp=2, pp=2),
    "fsdp2-pp2-interleaved": Layout(fsdp=2, pp=2, schedule="Interleaved1F1B"),
}


def specification(family: str, layout: Layout) -> Any:
    """The debug model with an attention that has a backward on the CPU, told of its layout."""
    from torchtitan.models.common.attention import ScaledDotProductAttention

    torch.manual_seed(0)
    spec = importlib.import_module(f"torchtitan.models.{family}").model_registry("debugmodel")
    for layer in spec.model.layers:
        layer.attention.inner_attention = ScaledDotProductAttention.Config()
    spec.model.update_from_config(config=types.SimpleNamespace(parallelism=parallelism(layout)))
    return spec


def parallelism(layout: Layout) -> Any:
    """What torchtitan takes."""
    from torchtitan.config import ParallelismConfig

    return ParallelismConfig(
        data_parallel_shard_degree=layout.fsdp,
        tensor_parallel_degree=layout.tp,
        enable_sequence_parallel=layout.sequence,
        context_parallel_degree=layout.cp,
        expert_parallel_degree=layout.ep,
        pipeline_parallel_degree=layout.pp,
        pipeline_parallel_schedule=layout.schedule,
        pipeline_parallel_layers_per_stage=None if layout.schedule == "1F1B" else 2,
        spmd_backend="partial_dtensor",
    )


def model_of(spec: Any, plain: bool) -> nn.Module:
    """With the same values in every process."""
    from mhc_compile.torchtitan import _transformed

    torch.manual_seed(0)
    model: nn.Module = spec.model.build()
    model.init_states()
    if plain:
        return model
    model = _transformed(model, n=4, options={})
    with torch.no_grad():
        for parameter in model.hyper_connections.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def batch(spec: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and positions `[BATCH, LENGTH]`."""
    tokens = torch.randint(spec.model.vocab_size, (BATCH, LENGTH), generator=torch.Generator().manual_seed(1))
    return tokens, torch.arange(LENGTH).expand(BATCH, -1).contiguous()


def loss_of(output: torch.Tensor) -> torch.Tensor:
    """Any function of the output will do."""
    return output.float().square().mean()


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A distributed tensor in one piece."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


Steps = list[tuple[float, dict[str, torch.Tensor]]]


def one_process(spec: Any, plain: bool) -> Steps:
    """Loss and gradients of each step."""
    model, (tokens, positions), found = model_of(spec, plain), batch(spec), []
    for _ in range(STEPS):
        loss = loss_of(model(tokens, positions=positions))
        loss.backward()
        found.append(
            (loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        )
        _step(model)
    return found


def _step(*models: nn.Module) -> None:
    with torch.no_grad():
        for parameter in (p for m in models for p in m.parameters() if p.grad is not None):
            parameter.sub_(RATE * parameter.grad)
            parameter.grad = None


def context_parallel(model: Any, mesh: Any) -> None:
    """What torchtitan does on a GPU: attention over the keys of all processes. Its kernels have no form for the CPU."""

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any) -> torch.Tensor:
        parts = (DTensor.from_local(t, mesh, [Shard(1)], run_check=False) for t in (k, v))
        wholes = (t.redistribute(placements=[Replicate()]).to_local(grad_placements=[Partial()]) for t in parts)
        k, v = (t.transpose(1, 2) for t in wholes)
        begin = mesh.get_local_rank() * q.shape[1]
        causal = torch.arange(k.shape[2]) <= begin + torch.arange(q.shape[1])[:, None]
        options = {key: value for key, value in options.items() if key in ("scale", "enable_gqa")}
        out = nn.functional.scaled_dot_product_attention(q.transpose(1, 2), k, v, attn_mask=causal, **options)
        return out.transpose(1, 2)

    for layer in model.layers.values():
        layer.attention.inner_attention.forward = attend


def run(spec: Any, layout: Layout, plain: bool, expected: Steps) -> tuple[float, float]:
    """Relative errors of loss and gradients of the layout, the largest of all steps."""
    from torchtitan.distributed import ParallelDims

    dims = ParallelDims.from_config(parallelism(layout), layout.world)
    dims.build_mesh()
    step = _pipelined(spec, layout, plain, dims) if layout.pp > 1 else _parallelised(spec, layout, plain, dims)
    worst_loss = worst = 0.0
    for loss, gradients in expected:
        found, models = step()
        worst_loss = max(worst_loss, abs(found - loss) / abs(loss))
        total = sum(g.square().sum() for g in gradients.values()) ** 0.5
        for name, p in ((n, p) for m in models for n, p in m.named_parameters() if p.grad is not None):
            name = name.replace("._checkpoint_wrapped_module", "")
            error = (whole(p.grad) - gradients[name]).norm() / (gradients[name].norm() + 1e-3 * total)
            worst = max(worst, error.item())
        _step(*models)
    return worst_loss, worst


def _options(layout: Layout, dims: Any) -> dict[str, Any]:
    from torchtitan.config import CompileConfig, TrainingConfig
    from torchtitan.distributed.activation_checkpoint import FullAC, SelectiveAC

    policies = {"full": FullAC.Config, "selective": SelectiveAC.Config}
    return {
        "parallel_dims": dims,
        "training": TrainingConfig(mixed_precision_param="float32", local_batch_size=BATCH // layout.fsdp),
        "parallelism": parallelism(layout),
        "compile_config": CompileConfig(enable=layout.compiled, backend="aot_eager"),
        "ac_config": policies[layout.checkpointing]() if layout.checkpointing else None,
        "dump_folder": tempfile.gettempdir(),
    }


def _summed(*models: nn.Module, parts: int) -> None:
    """The loss is a mean over all, and gloo has no scaled sum."""
    for module in (module for model in models for module in model.modules()):
        if hasattr(module, "set_force_sum_reduction_for_comms"):
            module.set_gradient_divide_factor(float(parts))
            module.set_force_sum_reduction_for_comms(True)


def _parallelised(spec: Any, layout: Layout, plain: bool, dims: Any) -> Any:
    from mhc_compile.torchtitan import with_hyper_connections

    model: Any = model_of(spec, plain)
    parallelize = spec.parallelize_fn if plain else with_hyper_connections(spec).parallelize_fn
    if layout.cp > 1:
        titans = importlib.import_module(spec.parallelize_fn.__module__)
        titans.apply_cp_to_forward = lambda *_: context_parallel(model, dims.get_mesh("cp"))
    model = parallelize(model, **_options(layout, dims))
    parts = layout.fsdp * layout.cp
    _summed(model, parts=parts)
    rank = dims.get_mesh("fsdp").get_local_rank() if parts > 1 else 0
    here = [t.chunk(layout.fsdp)[rank // layout.cp].chunk(layout.cp, 1)[rank % layout.cp] for t in batch(spec)]

    def step() -> tuple[float, list[nn.Module]]:
        loss = loss_of(whole(model(here[0], positions=here[1])))
        loss.backward()
        return _mean(loss.detach(), dims, parts), [model]

    return step


def _mean(loss: torch.Tensor, dims: Any, parts: int) -> float:
    if parts > 1:
        dist.all_reduce(loss, group=dims.get_mesh("fsdp").get_group())
    return loss.item() / parts


def _pipelined(spec: Any, layout: Layout, plain: bool, dims: Any) -> Any:
    from mhc_compile.torchtitan import with_hyper_connections

    model = model_of(spec, plain)
    pipelining = spec.pipelining_fn if plain else with_hyper_connections(spec).pipelining_fn
    schedule, parts, first, last = pipelining(
        model,
        device=torch.device("cpu"),
        model_config=spec.model,
        parallelize_fn=spec.parallelize_fn,
        loss_fn=lambda output, target, **_: (loss_of(output), None),
        **_options(layout, dims),
    )
    microbatches = BATCH // layout.fsdp
    _summed(*parts, parts=layout.fsdp * microbatches)
    tokens, positions = (t.chunk(layout.fsdp)[dims.get_mesh("fsdp").get_local_rank()] for t in batch(spec))

    def step() -> tuple[float, list[nn.Module]]:
        losses: list[torch.Tensor] = []
        schedule.step(
            arg_mbs=[(t,) for t in tokens.split(1)] if first else None,
            kwarg_mbs=[{"positions": p} for p in positions.split(1)],
            target_mbs=list(tokens.split(1)) if last else None,
            losses=losses if last else None,
            return_outputs=False,
        )
        loss = torch.stack(losses).sum().detach() / microbatches if last else torch.zeros(())
        dist.all_reduce(loss)
        return loss.item() / layout.fsdp, parts

    return step


def worker(rank: int, folder: str, family: str, name: str, plain: bool) -> None:
    """One process of a layout; writes the row of the table."""
    warnings.simplefilter("ignore")
    import torchtitan.tools.utils as device

    device.device_type, device.device_module = "cpu", torch.cpu
    layout = LAYOUTS[name]
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(layout.world), GLOO_SOCKET_IFNAME="lo")
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=layout.world)
    spec = specification(family, layout)
    try:
        errors = run(spec, layout, plain, one_process(specification(family, Layout()), plain))
    except Exception as error:
        Path(folder, "row").write_text(f"{type(error).__name__}: {' '.join(str(error).split())[:120]} | ")
        raise  # ends the others, who wait for this one
    if rank == 0:
        Path(folder, "row").write_text(" | ".join(f"{error:.0e}" for error in errors))
    dist.destroy_process_group()


def row(family: str, name: str, plain: bool) -> str:
    """One row of the table, from processes of its own."""
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.suppress(torch.multiprocessing.ProcessRaisedException):
            torch.multiprocessing.start_processes(
                worker, (folder, family, name, plain), nprocs=LAYOUTS[name].world, start_method="forkserver"
            )
        return f"| {family} | {name} | {Path(folder, 'row').read_text()} |"


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--family", nargs="*", default=list(FAMILIES), choices=FAMILIES)
    parser.add_argument("--layout", nargs="*", default=list(LAYOUTS), choices=list(LAYOUTS))
    parser.add_argument("--plain", action="store_true", help="without hyper-connections")
    arguments = parser.parse_args()
    print("| model | layout | error of the loss | of gradients |\n|---|---|---|---|")
    for name in arguments.layout:
        for family in arguments.family:
            if name != "fsdp2-ep2" or family == "deepseek_v3":
                print(row(family, name, arguments.plain), flush=True)


if __name__ == "__main__":
    main()
