"""DistributedDataParallel around a transformed model: two processes compute what one does on the joint batch."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import mhc_compile
from mhc_compile.errors import WrappedModelError
from tests.ranks import run_ranks
from tests.tables import also
from tests.toy_models import WIDTH, Block

STEPS = 8
CONNECTIONS = ["mhc", "mhc-single-pass", "hc", "hc-static", "mhc-lite", "kronecker", "circulant", "identity", "gated",
               "attention", "dense:rank=2"]  # fmt: skip


class Net(nn.Module):
    """Three blocks, every parameter used, no dropout."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(16, WIDTH)
        self.blocks = nn.Sequential(Block(), Block(), Block())
        self.head = nn.Linear(WIDTH, 16)

    def forward(self, ids):
        return self.head(self.blocks(self.embed(ids)))


def transformed(seed=0, **options):
    torch.manual_seed(seed)
    ids = torch.zeros(4, 5, dtype=torch.long)
    return mhc_compile.transform(Net(), **{"n": 4, "example_inputs": (ids,), "modes": ("train",), **options})


def train(model, named, part):
    """Gradients of each of 20 steps on the samples `part` of each batch of 4."""
    torch.set_num_threads(1)
    optimizer = torch.optim.SGD(named.values(), lr=0.1, momentum=0.9)
    for step in range(STEPS):
        start = torch.randint(16, (4, 1), generator=torch.Generator().manual_seed(step))
        ids = ((start + torch.arange(6)) % 16)[part]
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        yield {"loss": loss.detach(), **{name: p.grad.clone() for name, p in named.items()}}
        optimizer.step()


def compare(rank, twin, wrapped, single):
    """Every gradient of every step against a single process; losses are those of the parts, so only their mean."""
    mine = train(wrapped, dict(twin.named_parameters()), slice(2 * rank, 2 * rank + 2))
    alone = train(single, dict(single.named_parameters()), slice(None))
    losses = []
    for step, (a, b) in enumerate(zip(mine, alone, strict=True)):
        loss = a.pop("loss")
        torch.distributed.all_reduce(loss)
        torch.testing.assert_close(loss / 2, b.pop("loss"), rtol=0, atol=1e-5)
        assert a.keys() == b.keys() and any(name.startswith("hyper_connections.") for name in a)
        for name in a:
            assert (a[name] - b[name]).abs().max() <= 1e-5, f"step {step}: {name}"
        losses.append(float(loss))
    assert losses[-1] < losses[0] - 0.1, "nothing was learned, so gradients were hardly compared"


def eager(rank, folder, connections):
    wrapping_spreads_the_first_process(rank)
    for connection in connections:
        twin = transformed(connection=connection)
        single = copy.deepcopy(twin)
        compare(rank, twin, DistributedDataParallel(twin), single)


def compiled(rank, folder, backends):
    for call, backend in backends:
        call(rank, backend)


def compiled_inside(rank, backend):
    twin = transformed()
    single = copy.deepcopy(twin)
    compare(rank, twin, DistributedDataParallel(torch.compile(twin, backend=backend, fullgraph=True)), single)


def compiled_outside(rank, backend):
    twin = transformed()
    single = copy.deepcopy(twin)
    compare(rank, twin, torch.compile(DistributedDataParallel(twin), backend=backend), single)


def wrapping_spreads_the_first_process(rank):
    """Parameters drawn differently on each process, as `init="random"` does without a common seed."""
    twin = transformed(seed=rank, init="random")
    phi = twin.hyper_connections[twin.mhc_plan.sites[0].key].phi
    before = phi.detach().clone()
    DistributedDataParallel(twin)
    assert torch.equal(phi, before) == (rank == 0)
    torch.distributed.broadcast(before, 0)
    assert torch.equal(phi, before)


# That every new parameter has a gradient, which is all that the wrapper asks, is tested for each connection below.
@pytest.mark.slow
@pytest.mark.parametrize(
    "connections",
    [
        ["mhc", "hc"],
        *also(
            ["hc-static", "mhc-lite", "identity"],
            ["mhc-single-pass", "gated", "kronecker", "circulant"],
            ["attention", "dense:rank=2"],
        ),
    ],
)
def test_wrapping_makes_new_parameters_equal_and_gradients_of_two_processes_are_those_of_one(tmp_path, connections):
    run_ranks(eager, tmp_path, connections)


# Hooks of parameters are all that is special, and those are there under every backend.
@pytest.mark.slow
@pytest.mark.parametrize(
    "backends",
    [[(compiled_inside, "aot_eager"), (compiled_outside, "eager")], *also([(compiled_inside, "inductor")])],
    ids=["aot_eager", "inductor"],
)
def test_gradients_agree_around_a_compiled_model_and_where_the_wrapper_is_compiled(tmp_path, backends):
    run_ranks(compiled, tmp_path, backends)


@pytest.mark.usefixtures("without_kernels")
@pytest.mark.parametrize("connection", CONNECTIONS)
def test_no_new_parameter_is_left_without_a_gradient(connection):
    """Otherwise DistributedDataParallel would wait for it, or need `find_unused_parameters=True`."""
    twin = transformed(connection=connection)
    twin(torch.zeros(2, 3, dtype=torch.long)).sum().backward()
    assert [name for name, p in twin.named_parameters() if p.grad is None] == []


class WithoutGroup(DistributedDataParallel):
    """A wrapper that needs no process group."""

    def __init__(self, module):
        nn.Module.__init__(self)
        self.module = module


@pytest.mark.parametrize("wrapper", [WithoutGroup, nn.DataParallel])
@pytest.mark.parametrize("function", [mhc_compile.transform, mhc_compile.plan])
def test_a_wrapped_model_is_refused_and_told_the_order(wrapper, function):
    with pytest.raises(WrappedModelError, match=rf"write {wrapper.__name__}\(mhc_compile.transform\(model"):
        function(wrapper(Net()), example_inputs=(torch.zeros(2, 3, dtype=torch.long),))
