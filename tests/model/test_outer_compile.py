"""`torch.compile` around a transformed model, and calls of kinds that it does not know."""

from __future__ import annotations

import copy

import pytest
import torch

import mhc_compile
from mhc_compile.errors import NotPreservingWarning
from tests.model.towers import X, close, transformed
from tests.moved import move
from tests.tables import also
from tests.toy_models import WIDTH, Tower


@pytest.mark.parametrize("backend", ["eager", *also("inductor")])  # of open sizes, `kernels/test_lowering.py` has some
def test_compiles_in_one_graph_with_an_open_batch(backend):
    torch._dynamo.reset()
    twin = transformed().eval()
    compiled = torch.compile(twin, backend=backend, fullgraph=True)
    for batch in (2, 3, 4, 6):
        x = torch.randn(batch, 3, WIDTH)
        assert close(compiled(x), twin(x))


@pytest.mark.parametrize("connection", ["hc", *also("hc-static", "attention", "gated")])
def test_so_does_a_copy_whatever_its_connection_is(connection):
    """A copy restores itself at its first call: that changes a dict, behind which Dynamo trusts no view of another."""
    torch._dynamo.reset()
    twin = mhc_compile.transform(Tower(), n=2, example_inputs=(X,), connection=connection)
    twin = copy.deepcopy(move(twin).eval())
    compiled = torch.compile(twin, backend="eager", fullgraph=True)
    assert close(compiled(X), twin(X))


def test_compiled_call_of_a_new_kind_says_to_run_it_once():
    torch._dynamo.reset()
    twin = transformed()
    compiled = torch.compile(twin, backend="eager", fullgraph=True)
    with pytest.raises(Exception, match="call the model once before compiling"):
        compiled(X, gain=2.0)
    move(twin)(X, gain=2.0)
    assert close(compiled(X, gain=2.0), 2 * twin(X))


def test_compiled_without_fullgraph_traces_the_new_kind_itself():
    torch._dynamo.reset()
    twin = move(transformed())
    assert close(torch.compile(twin, backend="eager")(X, gain=2.0), 2 * twin(X))


def test_what_was_compiled_in_place_does_not_follow_its_copy():
    twin = transformed()
    twin.compile(backend="eager")
    move(twin)
    with pytest.warns(NotPreservingWarning):
        plain = mhc_compile.revert(twin)
    assert plain._compiled_call_impl is None
    assert not close(plain(X), twin(X))
