"""Who owns the new parameters of a backend: deleted and replaced ones, and how long a model lives."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import torch

from tests.dynamo.towers import TRAIN, distance, eager, inputs, randomise, tower


class TestReplaced:
    """`hyper_connections` deleted or replaced behind a compiled graph."""

    def test_deleted_parameters_are_made_anew(self) -> None:
        model, x = tower(), inputs()
        compiled = torch.compile(model, backend=eager())
        fresh = compiled(x)
        randomise(model)
        kept = model.hyper_connections
        assert distance(compiled(x), fresh) > 1e-3
        del model.hyper_connections
        assert distance(compiled(x), fresh) <= 1e-12
        assert list(model.hyper_connections) == list(kept) and model.hyper_connections is not kept
        compiled(x).square().sum().backward()
        assert all(p.grad is not None for p in model.hyper_connections.parameters())
        assert all(p.grad is None for p in kept.parameters())

    def test_those_put_in_their_place_are_used(self) -> None:
        model, x = tower(), inputs()
        compiled = torch.compile(model, backend=eager())
        before = compiled(x)
        model.hyper_connections = copy.deepcopy(model.hyper_connections)
        randomise(model)
        assert distance(compiled(x), before) > 1e-3


class TestLifetime:
    def test_neither_attach_nor_a_call_keeps_a_model_alive(self) -> None:
        x = inputs()
        for use in (lambda b, m: b.attach(m, (x,), modes=TRAIN), lambda b, m: torch.compile(m, backend=b)(x)):
            torch.compiler.reset()
            model = tower()
            backend, seen = eager(), weakref.ref(model)
            use(backend, model)
            parameter = weakref.ref(next(backend.parameters()))
            del model
            gc.collect()
            assert seen() is None and parameter() is None
            torch.compile(tower(), backend=backend)(x)  # the place is free

    def test_a_copy_and_a_pickle_of_a_backend_are_backends_without_a_model(self) -> None:
        kept, x = tower(), inputs()
        backend = eager(n=2)
        torch.compile(kept, backend=backend)(x)
        for twin in (copy.copy(backend), copy.deepcopy(backend), pickle.loads(pickle.dumps(backend))):
            other = tower()
            assert distance(torch.compile(other, backend=twin)(x), tower()(x)) <= 1e-10
            assert twin.config == backend.config and twin.inner == backend.inner
            assert not {*map(id, twin.parameters())} & {*map(id, backend.parameters())}
