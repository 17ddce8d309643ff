"""Generated code runs through the model's own modules."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import mhc_compile
from mhc_compile.errors import AlreadyTransformedError
from mhc_compile.twin.hosts import Hosted
from tests.toy_models import WIDTH, Block, Tower
from tests.twin.towers import X, transformed


def test_blocks_that_are_alike_are_compiled_once():
    torch.compiler.reset()
    twin, graphs = transformed(Tower(depth=12), modes=("train",)), []
    expected = twin(X)

    def count(gm, inputs):
        graphs.append(gm)
        return gm.forward

    for block in twin.blocks:
        block.compile(backend=count)
    torch.testing.assert_close(twin(X), expected)
    # The first has one stream in front of it, the second is the first with several behind; the last reduces them.
    assert len(graphs) == 4


class Owning(nn.Module):
    """Two sites that run in one module, whose keys are those of the module and of a part called `own`."""

    def __init__(self):
        super().__init__()
        self.own, self.up, self.down = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x):
        x = x + self.own(torch.tanh(x))
        return x + self.down(torch.tanh(self.up(x)))


def test_sites_that_share_a_host_have_their_own_parameters_whatever_its_modules_are_called():
    twin = transformed(nn.Sequential(Owning()))
    assert list(twin.hyper_connections) == ["0.own", "0"]
    twin(X).square().sum().backward()
    assert all(p.grad is not None for p in twin.hyper_connections.parameters())


class Attention(nn.Module):
    """As in BERT: a part called `self` with a site, and another part behind it."""

    def __init__(self):
        super().__init__()
        self.add_module("self", Block())
        self.output = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return x + self.output(torch.tanh(self.get_submodule("self")(x)))


def test_a_module_may_be_called_self():
    model = nn.Sequential(Attention(), Attention())
    twin = mhc_compile.transform(model, n=4, example_inputs=(X,), modes=("train",))
    torch.testing.assert_close(twin(X), model(X))


def test_every_parameter_has_one_name_and_children_reach_each_once():
    twin = transformed()
    names = [name for name, _ in twin.named_parameters()]
    plain = [name for name, _ in Tower().named_parameters()]
    assert [name for name in names if not name.startswith("hyper_connections.")] == plain
    assert twin.hyper_connections["blocks.1"] in list(twin.blocks[1].children())


def test_transforming_a_block_of_a_transformed_model_is_an_error():
    twin = transformed()
    assert isinstance(twin.blocks[0], Hosted)
    with pytest.raises(AlreadyTransformedError):
        mhc_compile.transform(twin.blocks[0], example_inputs=(X,))


class Inner(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.linear, self.function = nn.Linear(WIDTH, WIDTH), function

    def forward(self, x):
        return self.function(self.linear(x))


class Outer(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.inner = Inner(function)

    def forward(self, x):
        return x + self.inner(x)


def test_blocks_that_read_alike_but_call_different_parts_have_code_of_their_own():
    functions = (torch.tanh, torch.tanh, torch.sigmoid, torch.tanh, torch.tanh)
    model = nn.Sequential(*map(Outer, functions))
    twin = mhc_compile.transform(model, n=4, example_inputs=(X,), modes=("train",))
    torch.testing.assert_close(twin(X), model(X))


def test_mode_switches_of_a_module_do_not_keep_others_from_being_called():
    """Rotary embeddings are computed without gradients between the first coefficients and the first block."""

    class Rotary(nn.Module):
        @torch.no_grad()
        def forward(self, x):
            return torch.arange(x.shape[1], device=x.device)[:, None] / 10

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.rotary, self.block = nn.Linear(WIDTH, WIDTH), Rotary(), Shifted()

        def forward(self, x):
            x = self.stem(x)
            return self.block(x, self.rotary(x))

    class Shifted(Block):
        def forward(self, x, shift):
            return x + self.down(torch.relu(self.up(self.norm(x) + shift)))

    plain = Model()
    twin = mhc_compile.transform(plain, n=4, example_inputs=(X,), modes=("train",))
    assert {"block", "rotary", "stem"} <= twin._mhc.programs[0].entered
    torch.testing.assert_close(twin(X), plain(X))


class Output(nn.Module):
    """As in BERT: adds what it computes to a value that it is given."""

    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(WIDTH, WIDTH)

    def forward(self, h, x):
        return x + self.dense(h)


class Apart(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.output = nn.Linear(WIDTH, WIDTH), Output()

    def forward(self, x):
        return self.output(torch.tanh(self.up(x)), x)


def test_a_module_whose_branch_begins_outside_of_it_is_called_all_the_same():
    plain, calls = nn.Sequential(Apart(), Apart()), []
    twin = transformed(plain, modes=("train",))
    assert {"0", "0.output", "1", "1.output"} <= twin._mhc.programs[0].entered
    assert twin.hyper_connections["1"] in list(twin[1].children())
    for block in (twin[0], twin[1]):
        block.output.register_forward_hook(lambda *_: calls.append(1))
    twin(X)
    assert calls == [1, 1]
