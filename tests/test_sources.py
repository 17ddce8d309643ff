"""Models over a list of sources: trained, saved, compiled, checkpointed, cut into stages, refused with a reason."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import mhc_compile
from mhc_compile import pipeline
from mhc_compile.errors import CheckpointMismatchError, InvalidOptionError, NotPreservingWarning
from tests.moved import move
from tests.tables import also
from tests.toy_models import WIDTH, Block

CONNECTIONS = ["attention", "dense:rank=2"]
X = torch.randn(2, 3, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Layers of two residual adds, which may be recomputed."""

    def __init__(self, recomputed: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(Block(), Block()) for _ in range(3))
        self.norm = nn.LayerNorm(WIDTH)
        self.recomputed = recomputed

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = checkpoint(layer, x, use_reentrant=False) if self.recomputed else layer(x)
        return self.norm(x)


def made(connection: str, model: nn.Module | None = None, **options: object) -> nn.Module:
    torch.manual_seed(0)
    model = (Net() if model is None else model).double()
    options = {"example_inputs": (X,), "modes": ("train",), "connection": connection, **options}
    return mhc_compile.transform(model, **options)


def gradients(call, model: nn.Module) -> dict[str, Tensor]:
    model.zero_grad()
    (call(X) * torch.linspace(-1, 1, X.numel(), dtype=X.dtype).view_as(X)).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, gradient in one.items():
        torch.testing.assert_close(gradient, other[name], msg=name)


@pytest.mark.parametrize("connection", [*CONNECTIONS, *also("dense", "attention:layers=2", "dense:rank=2,layers=1")])
def test_every_parameter_learns_within_two_steps_and_dense_starts_as_the_model(connection: str):
    model = made(connection)
    kept = (model(X) - mhc_compile.revert(copy.deepcopy(model))(X)).abs().max() if "dense" in connection else 0
    assert kept <= 1e-10
    parameters, alive = dict(model.named_parameters()), set()
    optimizer = torch.optim.SGD(parameters.values(), lr=0.1)
    for _ in range(2):
        alive |= {name for name, gradient in gradients(model, model).items() if gradient.abs().max() > 0}
        optimizer.step()
    assert alive == set(parameters) and any("hyper_connections" in name for name in alive)


@pytest.mark.parametrize("connection", CONNECTIONS)
def test_activation_checkpointing_computes_the_same_gradients(connection: str):
    model, other = move(made(connection)), made(connection, Net(recomputed=True))
    other.load_state_dict(model.state_dict())
    assert_equal(gradients(model, model), gradients(other, other))


@pytest.mark.parametrize("connection", CONNECTIONS)
def test_sources_cross_the_borders_of_a_pipeline(connection: str):
    model = move(made(connection))
    stages = pipeline.split(model, ("layers.1", "layers.2"), example_inputs=(X,), modes=("train",))

    def in_stages(x: Tensor) -> Tensor:
        value = (x,)
        for stage in stages:
            value = stage(*value)
            value = value if isinstance(value, tuple) else (value,)
            crossed.append(len(value))
        return value[0]

    crossed: list[int] = []
    assert_equal(gradients(model, model), gradients(in_stages, model))
    sources = [len(model.mhc_plan.site(key).sources) for key in model.mhc_plan.segments[0].sites]
    assert crossed[:2] == [sources[2], sources[4]]  # those that the first site behind the border reads


@pytest.mark.exhaustive  # compiles each twice; `dynamo` and `kernels` have lists, too
@pytest.mark.parametrize("connection", CONNECTIONS)
def test_compiled_and_behind_the_backend_it_computes_the_same(connection: str):
    model = move(made(connection))
    torch.testing.assert_close(torch.compile(model, backend="aot_eager", fullgraph=True)(X), model(X))
    plain = mhc_compile.revert(copy.deepcopy(model)) if "dense" in connection else Net().double()
    backend = mhc_compile.backend(connection=connection, inner="eager")
    backend.attach(plain, example_inputs=(X,))
    plain.load_state_dict(model.state_dict())
    plain.compile(backend=backend)
    torch.testing.assert_close(plain(X), model(X))


def test_checkpoints_know_their_connection_and_go_back_to_a_plain_model():
    model, other = move(made("dense")), made("dense")
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(X), model(X))
    with pytest.raises(CheckpointMismatchError, match="dense"):
        made("attention").load_state_dict(model.state_dict())
    with pytest.warns(NotPreservingWarning, match="starts as another function"):
        mhc_compile.revert(made("attention"))


def test_what_has_no_effect_or_no_meaning_is_said():
    assert any("recompute has no effect" in note for note in made("attention", recompute="auto").mhc_plan.notes)
    for reduce in ("sum", "learned"):
        with pytest.raises(InvalidOptionError, match="reads its sources out as a site reads them"):
            made("dense", reduce=reduce)
    for connection in ("attention:layers=0", "dense:rank=-1", "dense:layers=-1"):
        with pytest.raises(InvalidOptionError, match="write "):
            made(connection)
    assert made("dense", n=1).mhc_plan.connection == made("dense", n=8).mhc_plan.connection == "dense"


def test_what_autograd_keeps_grows_with_blocks_and_not_with_sites_times_blocks():
    def kept(layers: int) -> int:
        model = Net().double()
        model.layers = nn.ModuleList(nn.Sequential(Block(), Block()) for _ in range(layers))
        found = made("attention", model)
        sizes: dict[int, int] = {}
        hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda t: sizes.update({t.data_ptr(): t.numel() * (t.shape[-1:] == (WIDTH,))}) or t, lambda t: t
        )
        with hooks:
            found(X)
        return sum(size for size in sizes.values() if size >= X.numel())

    two, four, eight = map(kept, (2, 4, 8))
    assert eight - four == 2 * (four - two)


@pytest.mark.parametrize("connection", CONNECTIONS)
def test_a_call_is_observed_and_what_has_not_moved_is_named(connection: str):
    model = made(connection)
    at_start, moved = mhc_compile.diagnose(model, X), mhc_compile.diagnose(move(model), X)
    assert [s.key for s in moved.sites] == [s.key for s in model.mhc_plan.sites if len(s.sources) > 1]
    assert all(s.moved == 0 for s in at_start.sites)
    assert all(s.moved == len(s.parameters) > 0 for s in moved.sites)


def test_parallel_lanes_are_two_static_streams_whatever_n_says():
    lanes, static = made("parallel-lanes", n=4), made("hc-static", n=2)
    assert lanes.mhc_plan.n == 2
    assert {tuple(lanes.hyper_connections[s.key].static_pre.tolist()) for s in lanes.mhc_plan.sites} == {(1, 0), (0, 1)}
    assert (move(lanes)(X) - static(X)).abs().max() > 1e-2
    static.load_state_dict({k: v for k, v in lanes.state_dict().items() if "extra_state" not in k}, strict=False)
    assert torch.equal(lanes(X), static(X))
