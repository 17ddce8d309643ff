"""Training steps of a model in one process and in a layout: loss and gradients of each."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from benchmarks.layouts.layout import BATCH, Layout, parallelism
from benchmarks.layouts.models import batch, context_parallel, loss_of, model_of, whole

STEPS, RATE = 3, 0.1

Steps = list[tuple[float, dict[str, torch.Tensor]]]
"""Loss and gradients of each step."""

Step = Callable[[], tuple[float, list[nn.Module]]]
"""Forward and backward: the loss, and the parts of the model that this process has."""


def one_process(spec: Any, plain: bool) -> Steps:
    """What one process alone computes."""
    model, (tokens, positions), found = model_of(spec, plain), batch(spec), []
    for _ in range(STEPS):
        loss = loss_of(model(tokens, positions=positions))
        loss.backward()
        found.append(
            (loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        )
        descend(model)
    return found


def descend(*models: nn.Module) -> None:
    """A step of plain gradient descent."""
    with torch.no_grad():
        for parameter in (p for m in models for p in m.parameters() if p.grad is not None):
            parameter.sub_(RATE * parameter.grad)
            parameter.grad = None


def errors(step: Step, expected: Steps) -> tuple[float, float]:
    """Relative errors of loss and gradients, the largest of all steps and processes."""
    worst = torch.zeros(2, dtype=torch.float64)
    for loss, gradients in expected:
        found, models = step()
        worst[0] = max(worst[0].item(), abs(found - loss) / abs(loss))
        total = sum(g.square().sum() for g in gradients.values()) ** 0.5
        for name, p in ((n, p) for m in models for n, p in m.named_parameters() if p.grad is not None):
            own = gradients[name.replace("._checkpoint_wrapped_module", "")]
            error = (whole(p.grad) - own).norm() / (own.norm() + 1e-3 * total)
            worst[1] = max(worst[1].item(), error.item())
        descend(*models)
    dist.all_reduce(worst, op=dist.ReduceOp.MAX)
    return worst[0].item(), worst[1].item()


def step_of(spec: Any, layout: Layout, extra: str, plain: bool, dims: Any) -> Step:
    """A step of the model in its layout.

    Args:
        spec: of the plain model, told of the layout.
        layout: degrees of parallelism; each data-parallel process gets its part of the batch, each context-parallel
            one its part of the sequence.
        extra: one of `EXTRAS`.
        plain: without hyper-connections.
        dims: torchtitan's `ParallelDims` of the layout.
    """
    return (_pipelined if layout.pp > 1 else _parallelised)(spec, layout, extra, plain, dims)


def _options(layout: Layout, extra: str, dims: Any) -> dict[str, Any]:
    from torchtitan.config import CompileConfig, TrainingConfig
    from torchtitan.distributed.activation_checkpoint import FullAC, SelectiveAC

    policies = {"full": FullAC.Config, "selective": SelectiveAC.Config}
    return {
        "parallel_dims": dims,
        "training": TrainingConfig(mixed_precision_param="float32", local_batch_size=BATCH // layout.fsdp),
        "parallelism": parallelism(layout),
        "compile_config": CompileConfig(enable=extra == "compiled", backend="aot_eager"),
        "ac_config": policies[extra]() if extra in policies else None,
        "dump_folder": tempfile.gettempdir(),
    }


def _summed(*models: nn.Module) -> None:
    """Gradients are summed, as torchtitan does: each loss has been divided. Gloo has no scaled sum."""
    for module in (module for model in models for module in model.modules()):
        if hasattr(module, "set_force_sum_reduction_for_comms"):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def _parallelised(spec: Any, layout: Layout, extra: str, plain: bool, dims: Any) -> Step:
    from mhc_compile.torchtitan import with_hyper_connections

    model: Any = model_of(spec, plain)
    parallelize = spec.parallelize_fn if plain else with_hyper_connections(spec).parallelize_fn
    if layout.cp > 1:
        titans = importlib.import_module(spec.parallelize_fn.__module__)
        titans.apply_cp_to_forward = lambda *_: context_parallel(model, dims.get_mesh("cp"))
    model = parallelize(model, **_options(layout, extra, dims))
    if model.enable_weight_tying:  # as torchtitan's `init_states` does
        model.tok_embeddings.weight = model.lm_head.weight
    parts = layout.fsdp * layout.cp
    _summed(model)
    rank = dims.get_mesh("fsdp").get_local_rank() if parts > 1 else 0
    here = [t.chunk(layout.fsdp)[rank // layout.cp].chunk(layout.cp, 1)[rank % layout.cp] for t in batch(spec)]

    def step() -> tuple[float, list[nn.Module]]:
        loss = loss_of(whole(model(here[0], positions=here[1]))) / parts
        loss.backward()
        return _sum(loss.detach(), dims, parts), [model]

    return step


def _sum(loss: torch.Tensor, dims: Any, parts: int) -> float:
    if parts > 1:
        dist.all_reduce(loss, group=dims.get_mesh("fsdp").get_group())
    return loss.item()


def _pipelined(spec: Any, layout: Layout, extra: str, plain: bool, dims: Any) -> Step:
    from mhc_compile.torchtitan import with_hyper_connections

    model, parts = model_of(spec, plain), BATCH  # each sequence is a microbatch of its own
    pipelining = spec.pipelining_fn if plain else with_hyper_connections(spec).pipelining_fn
    schedule, models, first, last = pipelining(
        model,
        device=torch.device("cpu"),
        model_config=spec.model,
        parallelize_fn=spec.parallelize_fn,
        loss_fn=lambda output, target, **_: (loss_of(output) / parts, None),
        **_options(layout, extra, dims),
    )
    _summed(*models)
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
        loss = torch.stack(losses).sum().detach() if last else torch.zeros(())
        dist.all_reduce(loss)
        return loss.item(), models

    return step
