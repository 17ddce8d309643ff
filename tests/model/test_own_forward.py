"""What users put around or in place of a forward: hooks, a function on the instance, a derived class."""

from __future__ import annotations

import pytest
import torch

import mhc_compile
from mhc_compile.errors import DeferredForwardError
from tests.model.towers import X, close, transformed
from tests.moved import move
from tests.toy_models import Tower


def test_hooks_run_once():
    calls = []
    model = Tower()
    model.register_forward_hook(lambda *args: calls.append("hook"))
    twin = transformed(model)
    calls.clear()
    twin(X)
    assert calls == ["hook"]


def test_forward_set_on_the_instance_is_honoured():
    model = Tower()
    plain = model.forward
    model.forward = lambda x: plain(x) * 3
    twin = transformed(model)
    assert close(twin(X), Tower.forward(model, X) * 3)
    assert close(mhc_compile.revert(twin)(X), model(X))


def test_a_class_derived_from_that_of_the_result_does_its_own_around_the_program():
    twin = move(transformed(Tower()))
    before = twin(X)

    class Tripled(type(twin)):
        def forward(self, x):
            return 3 * super().forward(x)

    class Mixed:
        def forward(self, x):
            return 2 * super().forward(x)

    twin.__class__ = Tripled
    assert close(twin(X), 3 * before)
    twin.__class__ = type("Both", (Mixed, Tripled), {})
    assert close(twin(X), 6 * before)


def test_a_class_derived_from_that_of_a_block_is_traced():
    twin = transformed(Tower())

    class Zeroed(type(twin.blocks[0])):
        def forward(self, x):
            return 0 * super().forward(x)

    for block in twin.blocks:
        block.__class__ = Zeroed
    assert close(twin(X), twin.head(torch.zeros_like(X)))


@pytest.mark.parametrize("kind", ["async def", "def"])
def test_a_forward_that_computes_only_later_is_refused(kind):
    source = f"{kind} forward(self, x):\n    {'return' if 'async' in kind else 'yield'} self.head(x)"
    namespace: dict = {}
    exec(source, namespace)
    with pytest.raises(DeferredForwardError, match="transform the module that it calls"):
        mhc_compile.transform(type("Later", (Tower,), namespace)(), example_inputs=(X,))
