"""Parts that are in no transformed model any longer, or never were, run plain and say so."""

from __future__ import annotations

import copy
import gc

import pytest
import torch
from torch.testing import assert_close

import mhc_compile
from mhc_compile.errors import DetachedModuleWarning
from tests.model.called_parts import Lit
from tests.moved import Net, X, net


@pytest.mark.parametrize("replace", [lambda part: Net(), torch.fx.symbolic_trace])
def test_a_part_that_is_no_door_is_told_of(replace):
    t = net(Lit)
    t.net = replace(mhc_compile.revert(t).net)
    with pytest.warns(DetachedModuleWarning, match="net.* without when they are called alone"):
        assert not torch.allclose(t(X), t.net(X))


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
