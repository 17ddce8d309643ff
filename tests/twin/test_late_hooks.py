"""What a hook on a module of a transformed model will not see is said when it is registered."""

from __future__ import annotations

import functools
import warnings

import pytest
from torch import nn
from torch.utils.hooks import RemovableHandle

import mhc_compile
from mhc_compile.errors import HookSeesStreamsWarning
from tests.moved import Net, X, net

KINDS = ["register_forward_hook", "register_forward_pre_hook"]


def look(*_: object) -> None:
    """A hook of the user's."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["blocks.0", "blocks.1"])
def test_a_hook_where_streams_cross_the_borders_is_told_what_it_gets(name, kind):
    with pytest.warns(HookSeesStreamsWarning, match=r"borders of this Block.*before transform, and it is traced"):
        getattr(net().get_submodule(name), kind)(look).remove()


@pytest.mark.parametrize("name", ["stem", "blocks", "blocks.0.up", "blocks.1.norm", "head"])
def test_a_hook_where_plain_values_cross_is_as_in_any_module(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net().get_submodule(name).register_forward_hook(look).remove()


def test_a_module_with_the_whole_segment_inside_takes_and_returns_plain_values():
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()

        def forward(self, x):
            return self.net(x) * 2

    t, seen = mhc_compile.transform(Around(), n=2, example_inputs=(X,)), []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        t.net.register_forward_hook(lambda module, args, output: seen.append((args, output)))
        result = t(X)
    ((args, output),) = seen
    assert args[0] is X and (output * 2 == result).all()


@pytest.mark.parametrize("hook", [nn.Module.zero_grad, functools.partial(RemovableHandle.remove)])
def test_hooks_of_libraries_take_what_they_get(hook):
    """They gather parameters or move tensors, and expect no shapes."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net().blocks[0].register_forward_hook(hook).remove()


def test_a_hook_that_was_there_before_sees_what_the_module_returns():
    model, seen = Net(), []
    model.blocks[0].register_forward_hook(lambda module, args, output: seen.append(output.shape))
    with warnings.catch_warnings():
        warnings.simplefilter("error", HookSeesStreamsWarning)
        mhc_compile.transform(model, n=2, example_inputs=(X,))(X)
    assert seen == [X.shape]
