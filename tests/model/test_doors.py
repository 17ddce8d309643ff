from __future__ import annotations

import copy
import gc
import pickle
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import mhc_compile
from mhc_compile.errors import CaptureError, DetachedModuleWarning, MhcError, StreamsCutWarning
from tests.capture.test_reads import PLACES
from tests.moved import Net, X, moved, net, programs
from tests.tables import also
from tests.toy_models import WIDTH, Block


class Lit(nn.Module):
    """Its own methods call a part, as trainers and packages do."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, x: Tensor) -> Tensor:
        return self.net(x).square().mean()

    def score(self, x: Tensor) -> Tensor:
        return self.forward(x)[:, -1]

    def predict(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self(x).argmax(-1)


class Features(nn.Module):
    """Has its blocks in a container that holds all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.head = nn.Sequential(Block(), Block()), nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        return self.features(x)


def test_a_method_that_calls_a_part_has_the_hyper_connections_and_trains_them():
    t = net(Lit)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss = t.training_step(X)
    assert_close(loss, t(X).square().mean())
    loss.backward()
    assert all(p.grad is not None for p in t.hyper_connections.parameters())


@pytest.mark.parametrize("call", [lambda t: t.forward(X), lambda t: t.net.forward(X)])
def test_forward_itself_is_a_call(call):
    t = net(Lit)
    assert_close(call(t), t(X))


def test_methods_that_call_the_model_are_calls_of_it():
    t = net(Lit)
    assert_close(t.score(X), t(X)[:, -1])
    assert torch.equal(t.predict(X), t(X).argmax(-1))


class Delegating(nn.Module):
    """Hands on attributes that it does not have, as PEFT's wrappers do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Lit()

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


class Renamed(nn.Module):
    """Calls a part by its second name."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(Block(), Block())
        self.net = self.body

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


@pytest.mark.parametrize(
    ("make", "part"), [(Delegating, lambda t: t.inner.net), (Delegating, lambda t: t.net), (Renamed, lambda t: t.body)]
)
def test_a_part_is_a_door_by_whatever_way_the_code_comes_to_it(make, part):
    t = net(make)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_close(part(t)(X), t(X))


class Methodical(nn.Module):
    """Its residual connections stand in a method that is not its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.gain = 1.0

    def features(self, x: Tensor, *, twice: bool = False) -> Tensor:
        for layer in (self.first, self.second) * (2 if twice else 1):
            x = x + self.gain * torch.tanh(layer(x))
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class Around(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Methodical()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner.head(self.inner.features(x))


@pytest.mark.parametrize("make", [Methodical, Around])
def test_a_method_with_residual_connections_of_its_own_is_a_door(make):
    t = moved(make())
    part = t if make is Methodical else t.inner
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_close(part.head(part.features(x=X)), t(X))
        part.gain = 0.5
        assert_close(part.head(part.features(X)), t(X))
    assert len(t._mhc.entries) == 2
    for other in (copy.deepcopy(t), pickle.loads(pickle.dumps(t))):
        assert_close((other if make is Methodical else other.inner).features(X), part.features(X))
    plain = mhc_compile.revert(t)
    assert "features" not in vars(plain if make is Methodical else plain.inner)


def test_layers_in_a_list_beside_the_children_are_doors_and_follow_their_attributes():
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = Block(), Block()
            self.order = [self.a, self.b]

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.order:
                x = layer(x)
            return x

    t = moved(Listed())
    before = t(X)
    t.a.drop.p = 1.0
    assert not torch.allclose(t(X), before)
    assert t.order == [t.a, t.b] and mhc_compile.revert(t).order[0] is not t.a


def test_a_shallow_copy_shares_the_parts_and_takes_none_with_it():
    t = net(Lit)
    want = t(X)
    other = copy.copy(t)
    assert_close(other.net(X), want)
    del other
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_close(t.net(X), want)


def test_all_children_but_the_head_are_a_feature_extractor():
    t = moved(Features())
    features = nn.Sequential(*list(t.children())[:-1])
    assert_close(t.head(features(X)), t(X))
    assert list(t.children())[-1] is t.head
    assert list(t.features[1].children())[-1] is t.features[1].drop


def test_a_model_that_calls_its_own_children_sees_no_others():
    class Calling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = Block(), Block(), nn.Linear(WIDTH, 4)
            self.calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1  # so that it goes through Dynamo
            for layer in list(self.children())[:2]:
                x = layer(x)
            return list(self.children())[-1](x)

    model = Calling()
    t = mhc_compile.transform(model, example_inputs=(X,), modes=("train",))
    assert_close(t(X), model(X))


def test_an_export_of_a_part_says_what_to_do():
    t = net(Lit).eval()
    t.net(X)
    with pytest.raises(CaptureError, match="net is a part of a transformed Lit"):
        torch.export.export(t.net, (X,), strict=False)


def test_models_of_one_class_are_of_one_class():
    assert type(net(Lit)) is type(moved(Lit()))


def test_features_are_those_inside_the_model():
    t = moved(Features())
    assert_close(t.head(t.forward_features(X)), t(X))


def test_blocks_in_a_loop_are_cut_with_one_warning_that_names_a_module():
    t = net()
    with pytest.warns(StreamsCutWarning, match=r"blocks\.0 is called by itself and holds 1 of the 2 sites"):
        x = t.blocks[0](X)
    plain = mhc_compile.revert(t)
    assert not torch.allclose(x, plain.blocks[0](X))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_close(t.blocks[0](X), x)


def test_a_module_without_sites_inside_computes_what_it_always_did():
    t = net()
    assert torch.equal(t.blocks[0].up(X), mhc_compile.revert(t).blocks[0].up(X))
    assert programs(t, "blocks.0.up") == 0


class Staged(Net):
    """Its stem has a part of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(self.stem)


@pytest.mark.parametrize("with_kwargs", [False, True])
def test_hooks_that_were_there_fire_in_a_module_without_sites_that_is_called_from_outside(with_kwargs):
    model = Staged()
    before = (lambda m, args, kwargs: ((args[0] + 1,), kwargs)) if with_kwargs else lambda m, args: args[0] + 1
    after = (lambda m, args, kwargs, out: 2 * out) if with_kwargs else lambda m, args, out: 2 * out
    model.stem.register_forward_pre_hook(before, with_kwargs=with_kwargs)
    model.stem[0].register_forward_hook(after, with_kwargs=with_kwargs)
    want = model.stem(X)
    t = moved(model)
    assert_close(t.stem(X), want)
    assert_close(mhc_compile.revert(t).stem(X), want)
    inside: list[Tensor] = []
    t.blocks[0].register_forward_pre_hook(lambda module, args: inside.append(args[0].detach()))
    t(X)
    assert_close(inside, [want.detach()])  # in generated code they are once, too


@pytest.mark.filterwarnings("ignore::mhc_compile.errors.StreamsCutWarning")
def test_what_a_part_reads_is_never_stale_behind_its_door():
    t = net()
    before = t.blocks[0](X)
    t.blocks[0].drop.p = 1.0
    assert not torch.allclose(t.blocks[0](X), before)
    t.blocks[0].drop.p = 0.0
    assert_close(t.blocks[0](X), before)
    assert programs(t, "blocks.0") == 2


@pytest.mark.filterwarnings("ignore::mhc_compile.errors.StreamsCutWarning")
def test_blocks_that_change_places_stay_doors():
    t = net()
    first, second = t.blocks
    t.blocks[0], t.blocks[1] = second, first
    with warnings.catch_warnings():
        warnings.simplefilter("error", DetachedModuleWarning)
        assert not torch.allclose(first(X), mhc_compile.revert(t).blocks[1](X))


@pytest.mark.parametrize("replace", [lambda part: Net(), torch.fx.symbolic_trace])
def test_a_part_that_is_no_door_is_told_of(replace):
    t = net(Lit)
    t.net = replace(mhc_compile.revert(t).net)
    with pytest.warns(DetachedModuleWarning, match="net.* without when they are called alone"):
        assert not torch.allclose(t(X), t.net(X))


@pytest.mark.filterwarnings("ignore::mhc_compile.errors.StreamsCutWarning")
def test_a_module_with_two_names_is_the_same_through_both():
    class Shared(Net):
        def __init__(self) -> None:
            super().__init__()
            self.again = self.blocks[0]

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(self.again(x))

    t = moved(Shared())
    with warnings.catch_warnings():
        warnings.simplefilter("error", mhc_compile.errors.MissingSitesWarning)
        assert_close(t.again(X), t.blocks[0](X))


def test_a_model_in_a_larger_one_runs_as_it_is_and_keeps_the_larger_one_from_being_transformed():
    class Outer(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)

    t = net()
    outer = Outer(t)
    assert_close(outer(X), t(X))
    assert_close(copy.deepcopy(outer)(X), t(X))
    with pytest.raises(MhcError, match="inner already has hyper-connections"):
        mhc_compile.transform(outer, example_inputs=(X,))


def test_a_part_copied_without_the_model_runs_plain_with_a_warning():
    t = net()
    block = copy.deepcopy(t.blocks[0])
    with pytest.warns(DetachedModuleWarning, match="runs without hyper-connections"):
        found = block(X)
    assert_close(found, mhc_compile.revert(t).blocks[0](X))


def test_a_part_that_outlives_its_model_runs_plain_with_a_warning():
    t = net()
    block, plain = t.blocks[0], mhc_compile.revert(t).blocks[0]
    del t
    gc.collect()
    with pytest.warns(DetachedModuleWarning, match="taken out of a transformed model"):
        assert_close(block(X), plain(X))


@pytest.mark.parametrize("place", ["config", *also("attribute", "class", "global object", "dict in a dict", "list")])
def test_an_outer_compile_sees_what_has_changed_wherever_it_lies(place):
    make, change, change_back = PLACES[place]
    t = moved(make())
    compiled = torch.compile(t, backend="eager")
    before = compiled(X)
    with torch.compiler.set_stance("fail_on_recompile"):
        assert_close(compiled(X), before)
    assert_close(before, t(X))
    try:
        change(t)
        assert_close(compiled(X), 3 * before)
    finally:
        change_back(t)
    assert_close(compiled(X), before)


def test_an_outer_compile_sees_a_variable_of_the_function_around():
    gain = 1.0

    class Inner(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * gain

    t = moved(Inner())
    compiled = torch.compile(t, backend="eager")
    before = compiled(X)
    assert_close(compiled(X), before)
    gain = 3.0
    assert_close(compiled(X), 3 * before)
