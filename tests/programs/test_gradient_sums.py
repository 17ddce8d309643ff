"""Gradients that are added up at the end of a backward, wherever it begins, if it fails, if it is one of several."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.debug import CommDebugMode

from mhc_compile.errors import ParallelError
from tests.parallel_models import IDS, new, tensor_parallel, transformed, whole
from tests.ranks import run_ranks


def sharded():
    model = transformed()
    tensor_parallel(model, init_device_mesh("cpu", (2,)), sequence=True)
    return model


def loss(model, ids=IDS):
    return whole(model(ids)).square().mean()


def same_gradients(model, single):
    for mine, alone in zip(new(model), new(single), strict=True):
        torch.testing.assert_close(whole(mine.grad), alone.grad, rtol=1e-4, atol=1e-6)


def several_backwards_add_up(model, single):
    for m in (model, single):
        m.zero_grad()
        loss(m).backward()
        both = loss(m), loss(m, IDS[:, :4])  # of two forwards, one after the other
        for part in both:
            part.backward()
        (loss(m) + loss(m, IDS[:, :4])).backward()  # and at once
    same_gradients(model, single)


def gradients_may_be_thrown_away_between_forward_and_backward(model, single):
    for m in (model, single):
        found = loss(m)
        m.zero_grad()
        found.backward()
    same_gradients(model, single)


class Boom(RuntimeError):
    pass


def a_backward_that_fails_leaves_what_was_there(model, single):
    def fail(gradient):
        raise Boom

    for m in (model, single):
        m.zero_grad()
        loss(m).backward()
    handle = model.layers[0].attention.register_full_backward_hook(lambda *_: fail(None))
    with pytest.raises(Boom):
        loss(model).backward()
    handle.remove()
    for m in (model, single):
        loss(m).backward()
    same_gradients(model, single)


def gradients_that_are_returned_are_refused(model, single):
    with pytest.raises(ParallelError, match=r"write backward\(\) and look at \.grad"):
        torch.autograd.grad(loss(model), new(model))
    weight = model.norm.weight
    assert torch.autograd.grad(loss(model), [weight])[0] is not None  # of others they may be
    several_backwards_add_up(model, single)


def a_backward_from_inside_is_refused(model, single):
    seen = []
    handle = model.layers[1].attention.register_forward_hook(lambda _, args, output: seen.append(output))
    found = loss(model)
    handle.remove()
    with pytest.raises(ParallelError, match="begun inside the model"):
        whole(seen[0]).square().mean().backward()
    model.zero_grad()
    del found


def whoever_looks_at_a_gradient_at_once_sees_the_sum(model, single):
    seen, expected = [], []
    handles = [new(m)[0].register_hook(found.append) for m, found in ((model, seen), (single, expected))]
    for m in (model, single):
        m.zero_grad()
        loss(m).backward()
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(whole(seen[0]), expected[0], rtol=1e-4, atol=1e-6)
    same_gradients(model, single)


def a_copy_adds_up_its_own(model, single):
    model.zero_grad()
    twin = copy.deepcopy(single)
    tensor_parallel(twin, init_device_mesh("cpu", (2,)), sequence=True)
    loss(twin).backward()
    second = copy.deepcopy(twin)
    for m in (second, single):
        m.zero_grad()
        loss(m).backward()
    same_gradients(second, single)
    same_gradients(twin, single)


def frozen_ones_cost_nothing(model, single):
    model.zero_grad()
    for parameter in new(model):
        parameter.requires_grad_(False)
    model(IDS)
    with CommDebugMode() as calls:
        loss(model).backward()
    frozen = calls.get_total_counts()
    for parameter in new(model):
        parameter.requires_grad_(True)
    model(IDS)
    with CommDebugMode() as calls:
        loss(model).backward()
    assert calls.get_total_counts() == frozen + 1


CHECKS = (
    several_backwards_add_up,
    gradients_may_be_thrown_away_between_forward_and_backward,
    a_backward_that_fails_leaves_what_was_there,
    gradients_that_are_returned_are_refused,
    a_backward_from_inside_is_refused,
    whoever_looks_at_a_gradient_at_once_sees_the_sum,
    a_copy_adds_up_its_own,
    frozen_ones_cost_nothing,
)


def in_turn(rank, folder):
    model, single = sharded(), transformed()
    for check in CHECKS:
        check(model, single)


def test_two_processes_add_up_what_each_has(tmp_path):
    run_ranks(in_turn, tmp_path)
