"""Graph breaks cut streams, and nothing else: keys, parameters and the function are those of one graph."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential, create_selective_checkpoint_contexts

import mhc_compile
from mhc_compile.errors import CaptureError, GraphBreakError, UncompiledCodeWarning
from mhc_compile.passes.plan import Reason
from tests.tables import also
from tests.test_backend import distance, inputs, randomise
from tests.toy_models import WIDTH, Block


@pytest.fixture(autouse=True)
def _fresh_dynamo() -> None:
    torch.compiler.reset()


class Halves(nn.Module):
    """Two pairs of blocks with a break between them; one block is used on both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Sequential(Block(), Block())
        self.back = nn.Sequential(Block(), Block())
        self.shared = Block()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.shared(self.front(x))
        if self.training:
            torch._dynamo.graph_break()
        return self.back(self.shared(x))


class Loop(nn.Module):
    """A break inside a loop, which makes Dynamo leave the whole function."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
            torch._dynamo.graph_break()
        return x


HALVES = ["front.0", "front.1", "shared", "shared#2", "back.0", "back.1"]
LOOP = ["blocks.0", "blocks.1", "blocks.2"]


def made(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind().double()


@pytest.mark.parametrize(("kind", "keys"), [(Halves, HALVES), (Loop, LOOP)])
@pytest.mark.parametrize("inner", ["eager", "aot_eager"])
def test_the_function_is_kept_and_every_site_is_found(kind: type[nn.Module], keys: list[str], inner: str) -> None:
    model, x = made(kind), inputs()
    wanted = model(x)
    assert distance(torch.compile(model, backend=mhc_compile.backend(inner=inner))(x), wanted) <= 1e-10
    assert list(model.hyper_connections) == keys


def test_with_and_without_the_break_the_same_parameters_are_used() -> None:
    model, x = made(Halves), inputs()
    compiled = torch.compile(model, backend=mhc_compile.backend(inner="eager"))
    compiled(x)
    model.eval()  # one graph
    compiled(x)
    assert list(model.hyper_connections) == HALVES


def test_attach_finds_the_keys_of_later_calls() -> None:
    for kind, keys in ((Halves, HALVES), (Loop, LOOP)):
        model = made(kind)
        backend = mhc_compile.backend(inner="eager")
        backend.attach(model, (inputs(),))
        assert list(model.hyper_connections) == keys
        parameters = [id(p) for p in backend.parameters()]
        torch.compile(model, backend=backend)(inputs())
        assert [id(p) for p in backend.parameters()] == parameters


def test_one_graph_for_all_blocks_takes_the_parameters_of_each() -> None:
    """Dynamo calls the graph of the first block for all of them; their new parameters are their own all the same."""
    model, x = made(Loop), inputs()
    compiled = torch.compile(model, backend=mhc_compile.backend(inner="eager"))
    compiled(x)
    randomise(model)
    with torch.no_grad():
        for name, parameter in model.hyper_connections.named_parameters():
            if name.startswith("blocks__1"):
                parameter.zero_()
    compiled(x).square().sum().backward()
    gradients = [model.hyper_connections[key].bias.grad for key in LOOP]
    assert all(g is not None and bool(g.abs().sum()) for g in gradients)
    assert not torch.allclose(gradients[0], gradients[2])
    expected = reference(model, x, LOOP)
    assert distance(compiled(x), expected) <= 1e-10


@pytest.mark.parametrize("options", [{"exclude": ["blocks.1"]}, {"exclude": ["blocks.0"]}, {"include": ["blocks.2"]}])
@pytest.mark.parametrize("inner", ["eager", *also("inductor")])
def test_globs_choose_among_the_blocks_that_share_a_graph(options: dict[str, list[str]], inner: str) -> None:
    model, x = made(Loop), inputs()
    wanted = model(x)
    compiled = torch.compile(model, backend=mhc_compile.backend(inner=inner, **options))
    assert distance(compiled(x), wanted) <= 1e-10
    chosen = options.get("include") or [key for key in LOOP if key not in options["exclude"]]
    assert list(model.hyper_connections) == chosen
    randomise(model)
    compiled(x).square().sum().backward()
    assert all(bool(model.hyper_connections[key].bias.grad.abs().sum()) for key in chosen)
    assert distance(compiled(x), reference(model, x, chosen)) <= 1e-10


def reference(model: nn.Module, x: torch.Tensor, chosen: list[str]) -> torch.Tensor:
    """Each block alone: the chosen ones transformed, with the parameters they have in `model`."""
    for key, block in zip(LOOP, model.blocks, strict=True):
        if key in chosen:
            block = mhc_compile.transform(block, example_inputs=(x,), modes=("train",))
            (only,) = block.hyper_connections
            block.hyper_connections[only].load_state_dict(model.hyper_connections[key].state_dict())
        x = block(x)
    return x.detach()


@pytest.mark.parametrize("kind", [Halves, Loop])
def test_strict_refuses_with_the_place(kind: type[nn.Module]) -> None:
    backend = mhc_compile.backend(inner="eager", strict=True)
    with pytest.raises(GraphBreakError, match="break"):
        torch.compile(made(kind), backend=backend)(inputs())
    with pytest.raises(GraphBreakError, match="break"):
        mhc_compile.backend(strict=True).attach(made(kind), (inputs(),))


class BreakInBranch(nn.Module):
    """A residual whose branch has a break inside, and one without."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.block = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), Block()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(self.up(torch.tanh(x)))
        torch._dynamo.graph_break()
        return self.block(x + self.down(h))


def test_a_residual_around_a_break_is_left_alone_and_the_report_says_why() -> None:
    model, x = made(BreakInBranch), inputs()
    wanted = model(x)
    explanation = mhc_compile.explain(model, x)
    assert [site.key for site in explanation.sites] == ["block"]
    (rejected,) = explanation.rejected
    assert rejected.reason is Reason.NOT_ANCESTOR and "a graph break lies inside" in rejected.detail
    assert rejected.detail in str(explanation)
    assert distance(torch.compile(model, backend=mhc_compile.backend(inner="eager"))(x), wanted) <= 1e-10


class Merge(nn.Module):
    """A merge of two paths behind a break, which has nothing to do with it."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Block()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch._dynamo.graph_break()
        return self.block(torch.relu(x) + torch.sigmoid(x))


def test_a_merge_behind_a_break_is_not_blamed_on_it() -> None:
    (rejected,) = mhc_compile.explain(made(Merge), inputs()).rejected
    assert rejected.reason is Reason.NOT_ANCESTOR and not rejected.detail


def test_strict_names_file_and_line() -> None:
    with pytest.raises(GraphBreakError, match=r"test_graph_breaks\.py:\d+"):
        torch.compile(made(Halves), backend=mhc_compile.backend(inner="eager", strict=True))(inputs())


def test_strict_takes_a_model_without_breaks() -> None:
    model, x = made(Halves).eval(), inputs()
    wanted = model(x)
    assert distance(torch.compile(model, backend=mhc_compile.backend(inner="eager", strict=True))(x), wanted) <= 1e-10


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
        with pytest.warns(UncompiledCodeWarning, match=r"test_graph_breaks\.py:\d+, .*checkpoint\(block, x") as caught:
            mhc_compile.backend(inner="eager").attach(model, (inputs(),))
        assert len(caught) == 1 and list(model.hyper_connections) == ["blocks.2", "blocks.3"]

    def test_explain_says_so_at_the_break(self) -> None:
        (only,) = mhc_compile.explain(made(Segments), inputs()).breaks
        assert "checkpoint each block itself" in only.remark

    def test_strict_refuses_it(self) -> None:
        with pytest.raises(GraphBreakError):
            mhc_compile.backend(strict=True).attach(made(Segments), (inputs(),))


def test_explain_says_what_a_disabled_function_costs() -> None:
    class Disabled(Halves):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.back(torch.compiler.disable(self.front.forward)(self.shared(x)))

    found = mhc_compile.explain(made(Disabled), inputs())
    assert "torch.compiler.disable" in found.breaks[0].remark and found.breaks[0].remark in str(found)
    assert not any(site.key.startswith("front") for site in found.sites)


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
