"""A transformed tower whose new parameters were moved, its input, and what a step gives."""

from __future__ import annotations

import torch

import mhc_compile
from tests.copies import copied
from tests.toy_models import WIDTH, Tower

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
