"""Transformed models of two streams, their input, and how near two results are."""

from __future__ import annotations

import torch

import mhc_compile
from tests.copies import copied
from tests.toy_models import WIDTH, Tower

X = torch.randn(2, 3, WIDTH, generator=torch.Generator().manual_seed(0))


def transformed(model=None, x=X, modes=("train",)):
    return mhc_compile.transform(model, n=2, example_inputs=(x,), modes=modes) if model else tower()


@copied
def tower():
    return mhc_compile.transform(Tower(), n=2, example_inputs=(X,))


def programs(model):
    return len(model._mhc.programs)


def close(a, b):
    return torch.allclose(a, b, rtol=1e-4, atol=1e-5)
