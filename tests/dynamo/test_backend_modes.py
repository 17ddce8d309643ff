"""The backend in the company of autocast, gradient modes, CUDA graph modes and DistributedDataParallel."""

from __future__ import annotations

import socket
import warnings
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import mhc_compile
from mhc_compile.errors import DDPOptimizerError, LateParametersError, RecompileLimitWarning
from tests.dynamo.towers import distance, inputs, tower
from tests.tables import also
from tests.toy_models import Tower


@pytest.mark.parametrize("inner", ["eager", "aot_eager", *also("inductor")])  # autocast is gone behind AOTAutograd
def test_autocast_bf16_finds_the_same_sites_and_keeps_parameters_in_fp32(inner: str) -> None:
    model, x = tower().float(), inputs().float()
    compiled = torch.compile(model, backend=mhc_compile.backend(inner=inner))
    with torch.autocast("cpu", torch.bfloat16):
        wanted, got = model(x), compiled(x)
    assert got.dtype == wanted.dtype == torch.bfloat16
    assert distance(got.float(), wanted.float()) <= 5e-2
    assert list(model.hyper_connections) == ["blocks.0", "blocks.1", "blocks.2"]
    assert all(p.dtype == torch.float32 for p in model.hyper_connections.parameters())
    got.float().square().sum().backward()
    assert all(p.grad is not None for p in model.hyper_connections.parameters())


def test_without_gradients_and_with_them_the_parameters_are_the_same() -> None:
    model, x = tower(), inputs()
    backend = mhc_compile.backend(inner="aot_eager")
    compiled = torch.compile(model, backend=backend)
    with torch.no_grad():
        assert distance(compiled(x), model(x)) <= 1e-10
    made = list(backend.parameters())
    compiled(x).sum().backward()
    assert all(a is b for a, b in zip(made, backend.parameters(), strict=True))
    assert all(p.grad is not None for p in made)


def test_the_mode_reaches_the_inner_backend() -> None:
    seen: list[dict[str, object]] = []

    def inner(gm: torch.fx.GraphModule, example_inputs: object, **keywords: object) -> object:
        seen.append(keywords)
        return gm.forward

    x = inputs()
    torch.compile(tower(), backend=mhc_compile.backend(inner=inner), mode="reduce-overhead")(x)
    torch.compile(tower(), backend=mhc_compile.backend(inner=inner, mode="max-autotune"))(x)
    torch.compile(tower(), backend=mhc_compile.backend(inner=inner, inner_options={"a": 1}))(x)
    torch.compile(tower(), backend=mhc_compile.backend(inner=inner))(x)
    assert seen == [{"mode": "reduce-overhead"}, {"mode": "max-autotune"}, {"options": {"a": 1}}, {}]


@pytest.mark.parametrize("inner", ["inductor", "cudagraphs"])
def test_reduce_overhead_and_cudagraphs_keep_the_function(inner: str) -> None:
    model, x = tower(2).eval(), inputs()
    mode = "reduce-overhead" if inner == "inductor" else None
    compiled = torch.compile(model, backend=mhc_compile.backend(inner=inner, mode=mode))
    with torch.no_grad():
        wanted = model(x)
        for _ in range(3):
            assert distance(compiled(x), wanted) <= 1e-10


def test_new_parameters_have_static_addresses_like_those_of_the_model() -> None:
    """What CUDA graphs ask: a parameter without the mark would be copied at every call."""
    kinds: list[list[bool]] = []

    def inner(gm: torch.fx.GraphModule, example_inputs: object) -> object:
        nodes = gm.graph.find_nodes(op="placeholder")
        kinds.append([bool(n.meta.get("tensor_dict", {}).get("_dynamo_static_input_type")) for n in nodes])
        return gm.forward

    torch.compile(tower(), backend=mhc_compile.backend(inner=inner))(inputs())
    assert kinds[0].count(False) == 1, "the input alone changes its address"


def test_the_last_graph_before_dynamo_gives_up_is_announced() -> None:
    model = tower()
    compiled = torch.compile(model, backend=mhc_compile.backend(inner="eager"), dynamic=False)
    with torch._dynamo.config.patch(recompile_limit=2):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            compiled(inputs(2, 3))
        with pytest.warns(RecompileLimitWarning, match="without hyper-connections"):
            compiled(inputs(2, 4))


class TestDistributed:
    @pytest.fixture(autouse=True)
    def _one_rank(self) -> Iterator[None]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=0, world_size=1)
        yield
        dist.destroy_process_group()

    def wide(self) -> Tower:
        """Large enough that DDPOptimizer makes several buckets of it."""
        torch.manual_seed(0)
        model = Tower(2, 256)
        model.unused.requires_grad_(False)
        return model

    def test_attached_before_the_wrapper_it_trains(self) -> None:
        model, x = self.wide(), torch.randn(3, 5, 256)
        wanted = model(x)
        backend = mhc_compile.backend(inner="aot_eager")
        backend.attach(model, (x,), modes=("train",))
        compiled = torch.compile(DistributedDataParallel(model), backend=backend)
        with torch._dynamo.config.patch(optimize_ddp=False):
            got = compiled(x)
            got.square().sum().backward()
        assert distance(got, wanted) <= 1e-4
        assert list(model.hyper_connections) == ["blocks.0", "blocks.1"]
        assert all(p.grad is not None for p in backend.parameters())

    def test_cuts_of_ddp_optimizer_are_refused(self) -> None:
        model, x = self.wide(), torch.randn(3, 5, 256)
        backend = mhc_compile.backend(inner="aot_eager")
        backend.attach(model, (x,), modes=("train",))
        compiled = torch.compile(DistributedDataParallel(model, bucket_cap_mb=1), backend=backend)
        with (
            torch._dynamo.config.patch(optimize_ddp="ddp_optimizer"),
            pytest.raises(DDPOptimizerError, match="optimize_ddp = False"),
        ):
            compiled(x)

    def test_parameters_that_would_not_be_synchronised_are_refused(self) -> None:
        model, x = self.wide(), torch.randn(3, 5, 256)
        compiled = torch.compile(DistributedDataParallel(model), backend=mhc_compile.backend(inner="eager"))
        with torch._dynamo.config.patch(optimize_ddp=False), pytest.raises(LateParametersError, match="attach"):
            compiled(x)
        assert "hyper_connections" not in dict(model.named_children())
