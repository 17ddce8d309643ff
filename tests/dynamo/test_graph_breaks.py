"""Graph breaks cut streams, and nothing else: keys, parameters and the function are those of one graph."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import mhc_compile
from mhc_compile.errors import GraphBreakError
from mhc_compile.passes.plan.reasons import Reason
from tests.dynamo.breaking import HALVES, LOOP, Halves, Loop, made
from tests.dynamo.towers import distance, inputs, randomise
from tests.moved import move
from tests.tables import also
from tests.toy_models import WIDTH, Block


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
    new = [id(p) for p in model.hyper_connections.parameters()]
    model.eval()  # one graph
    whole = compiled(x)
    move(model)
    assert list(model.hyper_connections) == HALVES and [id(p) for p in model.hyper_connections.parameters()] == new
    assert distance(compiled(x), whole) > 1e-3


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
    with pytest.raises(GraphBreakError, match=r"breaking\.py:\d+"):
        torch.compile(made(Halves), backend=mhc_compile.backend(inner="eager", strict=True))(inputs())


def test_strict_takes_a_model_without_breaks() -> None:
    model, x = made(Halves).eval(), inputs()
    wanted = model(x)
    assert distance(torch.compile(model, backend=mhc_compile.backend(inner="eager", strict=True))(x), wanted) <= 1e-10


def test_explain_says_what_a_disabled_function_costs() -> None:
    class Disabled(Halves):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.back(torch.compiler.disable(self.front.forward)(self.shared(x)))

    found = mhc_compile.explain(made(Disabled), inputs())
    assert "torch.compiler.disable" in found.breaks[0].remark and found.breaks[0].remark in str(found)
    assert not any(site.key.startswith("front") for site in found.sites)
