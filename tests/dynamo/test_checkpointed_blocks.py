"""Activation checkpoints behind the backend: streams cross their border, and what Dynamo leaves out is said."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential, create_selective_checkpoint_contexts

import mhc_compile
from mhc_compile.errors import CaptureError, GraphBreakError, UncompiledCodeWarning
from tests.dynamo.breaking import LOOP, made
from tests.dynamo.towers import distance, inputs, randomise
from tests.tables import also
from tests.toy_models import Block


class Checkpointed(nn.Module):
    """Blocks under activation checkpointing, as trainers wrap them."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.on = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.on else block(x)
        return x


class TestActivationCheckpointing:
    @pytest.mark.parametrize("inner", ["eager", "aot_eager", *also("inductor")])
    def test_streams_cross_the_border_of_the_checkpoint(self, inner: str) -> None:
        model, x = made(Checkpointed), inputs()
        wanted = model(x)
        backend = mhc_compile.backend(inner=inner)
        assert distance(torch.compile(model, backend=backend)(x), wanted) <= 1e-10
        (record,) = backend.records
        assert len(record.plan.segments) == 1 and list(model.hyper_connections) == LOOP

    @pytest.mark.parametrize("inner", ["aot_eager", *also("eager")])
    def test_gradients_are_those_without_checkpoints(self, inner: str) -> None:
        model, plain, x = made(Checkpointed), made(Checkpointed), inputs()
        plain.on = False
        compiled = [torch.compile(m, backend=mhc_compile.backend(inner=inner)) for m in (model, plain)]
        for call in compiled:
            call(x)
        randomise(model, plain)
        for call in compiled:
            call(x).square().sum().backward()
        for (name, one), other in zip(model.named_parameters(), plain.parameters(), strict=True):
            assert torch.allclose(one.grad, other.grad, rtol=1e-8, atol=1e-10), name

    def test_the_backward_graph_recomputes_what_it_did_before(self) -> None:
        relu = (torch.ops.aten.relu.default,)
        kept, recomputed = (len(backward_ops(Checkpointed, relu, on)) for on in (False, True))
        assert kept == 0 and recomputed == 3


def backward_ops(kind: type[nn.Module], targets: tuple[Any, ...], on: bool) -> list[Any]:
    """The calls of `targets` in the backward pass, with checkpoints or without."""
    torch.compiler.reset()
    from torch._dynamo.backends.common import aot_autograd
    from torch._functorch.aot_autograd import make_boxed_func
    from torch._functorch.partitioners import default_partition

    seen: list[Any] = []

    def backward(gm: torch.fx.GraphModule, _: Any) -> Any:
        seen.extend(node for node in gm.graph.nodes if node.target in targets)
        return make_boxed_func(gm.forward)

    inner = aot_autograd(
        fw_compiler=lambda gm, _: make_boxed_func(gm.forward), bw_compiler=backward, partition_fn=default_partition
    )
    model = made(kind)
    model.on = on
    torch.compile(model, backend=mhc_compile.backend(inner=inner))(inputs()).sum().backward()
    return seen


class Selective(Checkpointed):
    """Keeps the results of matrix products and recomputes the rest."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False, context_fn=keep_products) if self.on else block(x)
        return x


def keep_products() -> Any:
    return create_selective_checkpoint_contexts([torch.ops.aten.mm.default, torch.ops.aten.addmm.default])


def test_selective_checkpointing_keeps_its_policy() -> None:
    """Products are kept, so the backward pass holds those of the gradients only: as many as without checkpoints."""
    products = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
    without, selective, everything = (
        len(backward_ops(kind, products, on))
        for kind, on in ((Selective, False), (Selective, True), (Checkpointed, True))
    )
    assert without == selective < everything
    assert len(backward_ops(Selective, (torch.ops.aten.relu.default,), True)) == 3


class Segments(nn.Module):
    """Two segments of two blocks: Dynamo is switched off in the first."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block() for _ in range(4)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return checkpoint_sequential(self.blocks, 2, x * 1.0, use_reentrant=False)


class TestCheckpointSequential:
    def test_attach_warns_that_segments_run_without_hyper_connections(self) -> None:
        model = made(Segments)
        with pytest.warns(
            UncompiledCodeWarning, match=r"test_checkpointed_blocks\.py:\d+, .*checkpoint\(block, x"
        ) as caught:
            mhc_compile.backend(inner="eager").attach(model, (inputs(),))
        assert len(caught) == 1 and list(model.hyper_connections) == ["blocks.2", "blocks.3"]

    def test_explain_says_so_at_the_break(self) -> None:
        (only,) = mhc_compile.explain(made(Segments), inputs()).breaks
        assert "checkpoint each block itself" in only.remark

    def test_strict_refuses_it(self) -> None:
        with pytest.raises(GraphBreakError):
            mhc_compile.backend(strict=True).attach(made(Segments), (inputs(),))


class Breaking(Block):
    """A block that asks for the value of a tensor."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum().item() > 1e9 else super().forward(x)


class BreakInCheckpoint(nn.Module):
    """Blocks that are checkpointed in training; one of them breaks the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Breaking(), Block()])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.training else block(x)
        return x


class TestBreakInACheckpointedBlock:
    """Dynamo gives up the whole function."""

    @pytest.mark.parametrize(("strict", "error"), [(False, CaptureError), (True, GraphBreakError)])
    def test_attach_refuses_it(self, strict: bool, error: type[CaptureError]) -> None:
        with pytest.raises(error, match="inside a checkpointed block") as raised:
            mhc_compile.backend(strict=strict).attach(made(BreakInCheckpoint), (inputs(),), modes=("train",))
        assert type(raised.value) is error

    def test_attach_warns_where_only_one_mode_is_lost(self) -> None:
        model = made(BreakInCheckpoint)
        with pytest.warns(UncompiledCodeWarning, match="in train mode"):
            mhc_compile.backend(inner="eager").attach(model, (inputs(),))
        assert list(model.hyper_connections) == LOOP
