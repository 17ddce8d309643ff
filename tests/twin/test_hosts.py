"""Generated code runs through the model's own modules."""

from __future__ import annotations

import abc
import copy
import pickle
from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
from torch.utils.checkpoint import checkpoint

import mhc_compile
from mhc_compile.errors import AlreadyTransformedError, HookNotRunWarning
from mhc_compile.twin.hosts import Hosted
from tests.copies import copied
from tests.toy_models import WIDTH, Block, Tower

X = torch.randn(2, 3, WIDTH, generator=torch.Generator().manual_seed(0))


@copied
def tower(**options):
    torch.manual_seed(0)
    return mhc_compile.transform(Tower(), n=4, example_inputs=(X,), **options)


def transformed(model=None, **options):
    torch.manual_seed(0)
    twin = mhc_compile.transform(model, n=4, example_inputs=(X,), **options) if model else tower(**options)
    with torch.no_grad():
        for parameter in twin.hyper_connections.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return twin


def gradients(model):
    model.zero_grad()
    out = model(X)
    out.square().mean().backward()
    return [out.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def assert_same(a, b):
    for left, right in zip(a, b, strict=True):
        torch.testing.assert_close(left, right)


class Adapter(nn.Module):
    """A linear layer with a correction beside it."""

    def __init__(self, base):
        super().__init__()
        self.base, self.extra = base, nn.Linear(base.in_features, base.out_features)

    def forward(self, x):
        return self.base(x) + self.extra(x)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = Block()

    def forward(self, x):
        return self.block(self.block(x))


class Region(nn.Module):
    """A checkpointed function around two modules."""

    def __init__(self):
        super().__init__()
        self.first, self.second = Block(), Block()

    def forward(self, x):
        return checkpoint(lambda y: self.second(self.first(y)), x, use_reentrant=False)


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


class Doubled(nn.Module):
    """Does something around its forward, and does not take every keyword there."""

    def __init__(self):
        super().__init__()
        self.block = Block()

    def __call__(self, x):
        return 2 * super().__call__(x)

    def forward(self, x):
        return self.block(x)


@pytest.mark.parametrize("make", [Doubled, lambda: nn.Sequential(Doubled(), Doubled())], ids=["model", "part"])
def test_what_a_class_does_around_its_forward_is_done_once(make):
    model = make()
    torch.testing.assert_close(mhc_compile.transform(model, n=4, example_inputs=(X,), modes=("train",))(X), model(X))


class Registering(type):
    known: ClassVar[list[str]] = []

    def __init__(cls, name, bases, namespace, **options):
        super().__init__(name, bases, namespace)
        Registering.known.append(name)


class Registered(nn.Module, metaclass=Registering):
    """The metaclass keeps account of subclasses, and they must say what they are."""

    def __init_subclass__(cls, kind):
        cls.kind = kind

    def __init__(self):
        super().__init__()
        self.block = Block()

    def forward(self, x):
        return self.block(x)


class Kind(Registered, kind="a"):
    pass


def test_a_class_that_is_particular_about_subclasses_may_be_that_of_the_model_or_a_part():
    for model in (Kind(), nn.Sequential(Kind())):
        twin = mhc_compile.transform(model, n=4, example_inputs=(X,), modes=("train",))
        torch.testing.assert_close(twin(X), model(X))
        assert isinstance(twin, type(model))
    assert Registering.known == ["Registered", "Kind"]


class Listed(Block):
    """Keeps a list of subclasses, from which others make models."""

    known: ClassVar[list[type]] = []

    def __init_subclass__(cls):
        Listed.known.append(cls)


class InList(Listed):
    pass


def test_what_is_made_from_a_class_made_on_the_fly_is_a_plain_module():
    for model in (InList(), nn.Sequential(InList())):
        mhc_compile.transform(model, n=4, example_inputs=(X,), modes=("train",))
    assert len(Listed.known) > 1
    for kind in Listed.known:
        assert type(kind()) is InList and [name for name, _ in kind().named_children()] == [*InList()._modules]


class Abstract(nn.Module, abc.ABC):
    def __init__(self):
        super().__init__()
        self.block = Block()

    def forward(self, x):
        return self.block(x)


def test_abstract_base_classes_stay_what_they_are():
    model = Abstract()
    twin = mhc_compile.transform(model, n=4, example_inputs=(X,), modes=("train",))
    assert isinstance(twin, Abstract) and not isinstance(model, type(twin))


def test_hooks_see_tensors_as_inputs():
    twin, seen = transformed(), []
    twin.blocks[1].register_forward_pre_hook(lambda module, inputs: seen.extend(inputs))
    twin.blocks[1].register_forward_hook(lambda module, inputs, output: seen.extend(inputs))
    twin(X)
    assert seen and all(isinstance(value, torch.Tensor) for value in seen)


@pytest.mark.parametrize("connection", ["mhc", "hc"])
def test_hooks_of_submodules_fire_in_order(connection):
    twin, calls = transformed(connection=connection), []
    for name, module in twin.named_modules():
        if isinstance(module, (Block, nn.Linear)) and name != "unused":
            module.register_forward_hook(lambda *_, name=name: calls.append(name))
    twin(X)
    blocks = [f"blocks.{i}{part}" for i in range(3) for part in (".up", ".down", "")]
    assert calls == ["stem", *blocks, "head"]


def test_backward_hooks_of_submodules_fire():
    twin, calls = transformed(), []
    twin.blocks[1].register_full_backward_hook(lambda *_: calls.append(1))
    gradients(twin)
    assert calls == [1]


def test_hooks_that_were_traced_do_not_run_again():
    model = Tower()
    model.blocks[0].register_forward_hook(lambda *args: args[2] * 2)
    expected = model(X)
    twin = mhc_compile.transform(model, n=4, example_inputs=(X,), modes=("train",))
    torch.testing.assert_close(twin(X), expected)
    torch.testing.assert_close(mhc_compile.revert(twin)(X), expected)


def test_hooks_that_were_there_and_collect_something_do_so_at_every_call():
    model, calls = Tower(), []
    model.blocks[0].register_forward_hook(lambda *args: calls.append(args[2].sum()) or args[2] * 2)
    expected = model(X)
    twin = mhc_compile.transform(model, n=4, example_inputs=(X,), modes=("train",))
    for module in (twin, mhc_compile.revert(twin)):
        calls.clear()
        torch.testing.assert_close(module(X), expected)
        assert len(calls) == 1


def test_block_called_by_anyone_else_computes_what_it_always_did():
    model = Tower()
    twin = mhc_compile.transform(model, n=4, example_inputs=(X,), modes=("train",))
    torch.testing.assert_close(twin.blocks[0](X), model.blocks[0](X))


def test_wrapping_blocks_for_activation_checkpointing_changes_nothing_but_memory():
    twin = transformed()
    expected, names = gradients(twin), list(twin.state_dict())
    runs = []
    twin.blocks[1].up.register_forward_hook(lambda *_: runs.append(1))
    apply_activation_checkpointing(twin, check_fn=lambda module: isinstance(module, Block))
    assert list(twin.state_dict()) == names
    assert_same(gradients(twin), expected)
    assert len(runs) == 2 and len(twin._mhc.programs) == 2  # once more in the backward, and nothing was traced again


@pytest.mark.parametrize("model", [Twice, Region])
def test_modules_used_twice_and_checkpointed_functions_keep_the_function(model):
    plain = model()
    twin = mhc_compile.transform(plain, n=4, example_inputs=(X,), modes=("train",))
    torch.testing.assert_close(twin(X), plain(X))
    assert_same(gradients(copy.deepcopy(twin)), gradients(pickle.loads(pickle.dumps(twin))))


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


def test_an_adapter_put_in_place_of_a_layer_is_traced_and_trained():
    model = Tower()
    twin = mhc_compile.transform(model, n=4, example_inputs=(X,), modes=("train",))
    twin.blocks[0].up = Adapter(twin.blocks[0].up)
    plain = copy.deepcopy(model)
    plain.blocks[0].up = Adapter(plain.blocks[0].up)
    plain.blocks[0].up.load_state_dict(twin.blocks[0].up.state_dict())
    torch.testing.assert_close(twin(X), plain(X))
    twin(X).sum().backward()
    assert twin.blocks[0].up.extra.weight.grad.abs().sum() > 0


class Doubling(nn.Linear):
    """Has what a linear layer has, and computes something else."""

    def forward(self, x):
        return 2 * super().forward(x)


def test_a_layer_put_in_place_of_one_with_the_same_parameters_is_traced():
    model = Tower()
    twin = mhc_compile.transform(model, n=4, example_inputs=(X,), modes=("train",))
    plain = copy.deepcopy(model)
    torch.testing.assert_close(twin(X), plain(X))
    for tower in (twin, plain):
        tower.blocks[0].up, before = Doubling(WIDTH, 2 * WIDTH), tower.blocks[0].up
        tower.blocks[0].up.load_state_dict(before.state_dict())
    torch.testing.assert_close(twin(X), plain(X))


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


def test_a_hook_that_will_never_fire_is_warned_of():
    twin = transformed()
    with pytest.warns(HookNotRunWarning, match="Linear is not called"):
        twin.unused.register_forward_hook(lambda *_: None)
