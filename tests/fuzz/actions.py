"""What is done to a transformed model between its calls, and to the plain one beside it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from tests.fuzz.pair import Pair, same
from tests.fuzz.streams import Called, Watched, watched

RATE = 1e-2

Action = tuple[str, int, float]
"""Name of an action of `ACTIONS`, number of the layer it is about, and a value for it."""


def _set(name: str, choose: Callable[[float], Any]) -> Callable[[Pair, int, float], None]:
    """An action that sets an attribute of a branch; `a.b` is that of a child."""

    def action(pair: Pair, index: int, value: float) -> None:
        for branch in pair.branches(index):
            *path, last = name.split(".")
            setattr(branch.get_submodule(".".join(path)), last, choose(value))

    return action


def _set_level(pair: Pair, index: int, value: float) -> None:
    """An attribute of the model, which branches read through a list."""
    for model in pair.both:
        model.level = value + 0.5


def _switch(pair: Pair, index: int, value: float) -> None:
    for branch in pair.branches(index):
        (branch.switches.add if value else branch.switches.discard)("negated")


def _call_layer(pair: Pair, index: int, value: float) -> None:
    place = pair.residual(index)
    x = pair.x * (1 + value)
    found = pair.model.body.layers[place](x, x, x)
    pair.compare("a call of a layer", found, pair.formula().layer(pair.plain.body, place, x))


def _call_body(pair: Pair, index: int, value: float) -> None:
    pair.compare("a call of the body", pair.model.body(pair.x), pair.formula().body(pair.plain.body, pair.x))


def _call_other_batch(pair: Pair, index: int, value: float) -> None:
    x = torch.cat((pair.x, pair.x[:1] * value))
    pair.compare("a larger batch", pair.model(x), pair.formula().model(pair.plain, x))


def _call_without_gradients(pair: Pair, index: int, value: float) -> None:
    with torch.no_grad():
        pair.check("a call without gradients")


def _step(pair: Pair, index: int, value: float) -> None:
    """A step of SGD on both; what the formula and the model give the new parameters is the same."""
    new = list(pair.model.hyper_connections.parameters())
    own = [[p for n, p in m.named_parameters() if "hyper_connections" not in n] for m in pair.both]
    results = pair.model(pair.x), pair.formula().model(pair.plain, pair.x)
    pair.compare("a call for a step", *results)
    sums = [_loss(model, result) for model, result in zip(pair.both, results, strict=True)]
    gradients = [torch.autograd.grad(s, [*new, *p], allow_unused=True) for s, p in zip(sums, own, strict=True)]
    for mine, other in zip(*gradients, strict=True):
        if mine is not None or other is not None:
            same("a step", "a gradient", _or_zero(mine, other), _or_zero(other, mine))
    with torch.no_grad():
        for parameters, found in zip(([*new, *own[0]], own[1]), (gradients[0], gradients[1][len(new) :]), strict=True):
            for parameter, gradient in zip(parameters, found, strict=True):
                parameter.sub_(RATE * (torch.zeros_like(parameter) if gradient is None else gradient.clamp(-1, 1)))


def _loss(model: Called, result: Tensor) -> Tensor:
    return result.square().mean() + sum(branch.loss for branch in watched(model))


def _or_zero(gradient: Tensor | None, other: Tensor | None) -> Tensor:
    chosen = gradient if gradient is not None else other
    assert chosen is not None
    return chosen if gradient is not None else torch.zeros_like(chosen)


def _record(pair: Pair, index: int, value: float) -> None:
    for branch, record in zip(pair.branches(index), pair.records, strict=True):
        hook = lambda module, args, out, record=record: record.append(out.detach().clone())
        pair.hooks.append(branch.register_forward_hook(hook))


def _change_by_hook(pair: Pair, index: int, value: float) -> None:
    for branch in pair.branches(index):
        pair.hooks.append(branch.inner.register_forward_pre_hook(lambda module, args: (args[0] * 1.5, *args[1:])))


def _remove_hooks(pair: Pair, index: int, value: float) -> None:
    while pair.hooks:
        pair.hooks.pop().remove()


def _copy(pair: Pair, index: int, value: float) -> None:
    """Hooks of the copy are those of the original, whose records and handles it does not share."""
    _remove_hooks(pair, index, value)
    for branch in (b for model in pair.both for b in watched(model)):
        branch.loss = branch.loss.detach()
    pair.model = copy.deepcopy(pair.model)


def _reload(pair: Pair, index: int, value: float) -> None:
    saved = {k: v.clone() for k, v in pair.model.state_dict().items()}
    with torch.no_grad():
        for parameter in pair.model.parameters():
            parameter.add_(1.0)
    pair.model.load_state_dict(saved)


def _switch_mode(pair: Pair, index: int, value: float) -> None:
    for model in pair.both:
        model.train(not model.training)


def _switch_mode_of_a_branch(pair: Pair, index: int, value: float) -> None:
    for branch in pair.branches(index):
        branch.train(not branch.training)


def _linear(branch: Watched) -> nn.Module:
    return branch.inner.a


def _parametrize(pair: Pair, index: int, value: float) -> None:
    for branch in pair.branches(index):
        if parametrize.is_parametrized(_linear(branch)):
            parametrize.remove_parametrizations(_linear(branch), "weight")
        else:
            parametrizations.weight_norm(_linear(branch))


def _swap(pair: Pair, index: int, value: float) -> None:
    """Another module of the same class, with other weights."""
    for branch in pair.branches(index):
        branch.inner.a = copy.deepcopy(_linear(branch))
        with torch.no_grad():
            for parameter in branch.inner.a.parameters():
                parameter.mul_(0.5 + value)


ACTIONS: dict[str, Callable[[Pair, int, float], None]] = {
    "call_layer": _call_layer,
    "call_body": _call_body,
    "call_other_batch": _call_other_batch,
    "call_without_gradients": _call_without_gradients,
    "step": _step,
    "record": _record,
    "change_by_hook": _change_by_hook,
    "remove_hooks": _remove_hooks,
    "copy": _copy,
    "reload": _reload,
    "switch_mode": _switch_mode,
    "switch_mode_of_a_branch": _switch_mode_of_a_branch,
    "parametrize": _parametrize,
    "swap": _swap,
    "set_scale": _set("scale", lambda value: value + 0.5),
    "set_tensor": _set("gain", lambda value: torch.tensor(value + 0.5)),
    "set_level": _set_level,
    "switch": _switch,
    "set_flag": _set("doubled", bool),
    "set_dropout": _set("drop.p", lambda value: float(value > 0.5)),
}
