from __future__ import annotations

import pytest
import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

import mhc_compile
from mhc_compile.passes.checkpoints import META, inline_checkpoints, outline_checkpoints
from tests.passes.graphs import error, rewritten, traced
from tests.passes.shapes import SHAPES
from tests.toy_models import Block


def opened(name):
    model, inputs = SHAPES[name].make()
    gm = traced(model, *inputs, front_end="dynamo")
    inline_checkpoints(gm)
    return model, inputs, gm


def checkpoints(gm):
    return [
        n for n in gm.graph.nodes if getattr(n.target, "__name__", "") in ("tag_activation_checkpoint", "checkpoint")
    ]


@pytest.mark.parametrize("name", ["checkpointed", "checkpointed whole"])
def test_bodies_are_inlined_with_a_region_each(name):
    model, inputs, gm = opened(name)
    assert not checkpoints(gm)
    assert {n.meta[META].index for n in gm.graph.nodes if META in n.meta} == {0, 1}
    gm.graph.lint()
    gm.recompile()
    assert error(gm(*inputs), model(*inputs)) <= 1e-12


@pytest.mark.parametrize("name", ["checkpointed", "checkpointed whole"])
def test_what_was_opened_is_closed_again(name):
    model, inputs, gm = opened(name)
    outline_checkpoints(gm)
    gm.recompile()
    assert len(checkpoints(gm)) == 2 and error(gm(*inputs), model(*inputs)) <= 1e-12


def activations_kept(gm, *inputs):
    """Number of tensors, parameters aside, that the forward pass keeps for the backward."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        gm(*inputs).sum()
    return sum(not isinstance(t, torch.nn.Parameter) for t in kept)


def test_the_rewritten_body_is_recomputed_in_the_backward_pass():
    model, inputs = SHAPES["checkpointed whole"].make()
    gm, _ = rewritten(model, *inputs, front_end="dynamo")
    assert len(checkpoints(gm)) == 2
    other, _ = rewritten(SHAPES["pre-norm"].make()[0], *inputs)
    assert activations_kept(gm, *inputs) < activations_kept(other, *inputs) / 2


def test_graphs_without_checkpoints_are_left_alone():
    model, inputs = SHAPES["pre-norm"].make()
    gm = traced(model, *inputs, front_end="dynamo")
    before = [str(n) for n in gm.graph.nodes]
    inline_checkpoints(gm)
    outline_checkpoints(gm)
    assert [str(n) for n in gm.graph.nodes] == before


class Selective(torch.nn.Module):
    """Blocks checkpointed under a policy that is told about every operator."""

    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList(Block() for _ in range(2))

    def forward(self, x):
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False, context_fn=policy_contexts)
        return x


ASKED = []


def policy(context, op, *args, **kwargs):
    ASKED.append(op)
    return CheckpointPolicy.PREFER_RECOMPUTE


def policy_contexts():
    return create_selective_checkpoint_contexts(policy)


def test_the_policy_of_selective_checkpointing_survives_a_transformation():
    model, x = Selective().double(), torch.randn(3, 8, dtype=torch.float64)
    transformed = mhc_compile.transform(model, example_inputs=(x,), modes=("train",))
    ASKED.clear()
    out = transformed(x)
    assert torch.ops.aten.addmm.default in ASKED
    assert error(out, model(x)) <= 1e-10
    out.sum().backward()
    assert all(p.grad is not None for p in transformed.hyper_connections.parameters())


class Mixed(torch.nn.Module):
    """One block used again and again, once under a policy of its own."""

    def __init__(self):
        super().__init__()
        self.block = Block()

    def forward(self, x):
        for i in range(6):  # the code of the first two and the last is another one
            policy = other_contexts if i == 3 else policy_contexts
            x = checkpoint(self.block, x, use_reentrant=False, context_fn=policy)
        return x


OTHERS = []


def other_policy(context, op, *args, **kwargs):
    OTHERS.append(op)
    return CheckpointPolicy.PREFER_RECOMPUTE


def other_contexts():
    return create_selective_checkpoint_contexts(other_policy)


def test_every_region_keeps_its_own_policy():
    x = torch.randn(3, 8, dtype=torch.float64)
    transformed = mhc_compile.transform(Mixed().double(), example_inputs=(x,), modes=("train",))
    ASKED.clear()
    OTHERS.clear()
    transformed(x)
    assert ASKED.count(torch.ops.aten.addmm.default) == 5 * OTHERS.count(torch.ops.aten.addmm.default) > 0
