"""A model that nobody holds any more is gone, with every parameter: a sweep converts one after the other."""

from __future__ import annotations

import gc
import warnings
import weakref

import pytest
import torch

import mhc_compile
from tests.moved import Net, X


class Broken(Net):
    def forward(self, x):
        y = super().forward(x)
        torch._dynamo.graph_break()
        return y + 1


def transformed(model):
    hyper = mhc_compile.transform(model, n=2, example_inputs=(X,))
    hyper(X).sum().backward()
    return hyper


def compiled(model):
    backend = mhc_compile.backend(n=2, inner="eager")
    backend.attach(model, (X,), modes=("train",))
    torch.compile(model, backend=backend)(X).sum().backward()
    return model


def estimated(model):
    mhc_compile.estimate(model, "h100", example_inputs=(X,))
    return model


@pytest.mark.parametrize(
    ("kind", "use"),
    [(Net, transformed), (Broken, transformed), (Net, compiled), (Net, estimated)],
    ids=["in one graph", "with a graph break", "behind the backend", "estimated"],
)
def test_a_model_is_freed_with_its_parameters(kind, use):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        used = use(kind())
    held = [weakref.ref(tensor) for tensor in (used, *used.parameters())]
    del used
    gc.collect()
    assert [ref() for ref in held if ref() is not None] == []
