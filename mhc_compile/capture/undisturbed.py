"""Settings under which tracing leaves no mark, and sees the residual adds of every layer."""

from __future__ import annotations

import functools
import logging
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from mhc_compile import _torch_compat as compat
from mhc_compile.capture.guards import leaves_allowed


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Tracing consumes no random numbers, and prints no internal traceback for a user's error."""
    hooks = {k: v for k, v in vars(model).items() if k in _CALL_HOOKS}
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    disabled = logger.disabled
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(compat.dynamo_config.patch(allow_rnn=True))  # LSTM and GRU, refused by default
        stack.enter_context(compat.dynamo_config.patch(reorderable_logging_functions=_told()))
        stack.enter_context(residuals_shown())
        stack.enter_context(leaves_allowed())
        stack.enter_context(draws_seen())
        try:
            logger.disabled = True
            vars(model).update({k: type(v)() for k, v in hooks.items()})
            yield
        finally:
            vars(model).update(hooks)
            logger.disabled = disabled


def _told() -> set[Callable[..., Any]]:
    """What Dynamo is to leave for the end of a graph: a deprecated class of a library warns wherever it is made."""
    return {warnings.warn, *compat.dynamo_config.reorderable_logging_functions}


@contextmanager
def state_kept(model: nn.Module) -> Iterator[None]:
    """Buffers (running statistics, caches) and random generators are afterwards as they were."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    put_back = [_state_of(value) for module in model.modules() for value in vars(module).values() if _draws(value)]
    with torch.random.fork_rng():
        try:
            yield
        finally:
            for put in put_back:
                put()
            with torch.no_grad():
                for name, buffer in model.named_buffers():
                    if name in before and buffer.shape == before[name].shape:
                        buffer.copy_(before[name])


def _draws(value: object) -> bool:
    """Whether a value is a random generator, of Python, PyTorch or NumPy."""
    of_numpy = type(value).__module__.startswith("numpy.random") and type(value).__name__ in (
        "Generator",
        "RandomState",
    )
    return of_numpy or isinstance(value, (random.Random, torch.Generator))


def _state_of(generator: Any) -> Callable[[], None]:
    """What gives a generator the state back that it has now."""
    if isinstance(generator, random.Random):
        return functools.partial(generator.setstate, generator.getstate())
    if hasattr(generator, "get_state"):
        return functools.partial(generator.set_state, generator.get_state())
    return functools.partial(setattr, generator.bit_generator, "state", generator.bit_generator.state)


@contextmanager
def draws_seen() -> Iterator[None]:
    """Drawing from a `random.Random` of its own breaks the graph: Dynamo takes the number it has drawn for constant."""
    known = compat.RandomVariable.is_supported_random_obj
    compat.RandomVariable.is_supported_random_obj = staticmethod(lambda value: False)
    try:
        yield
    finally:
        compat.RandomVariable.is_supported_random_obj = staticmethod(known)


@contextmanager
def residuals_shown() -> Iterator[None]:
    """PyTorch's encoder layers do without the one operator for a whole layer, which hides their residual adds."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


_CALL_HOOKS = frozenset(
    {
        "_forward_hooks",
        "_forward_hooks_with_kwargs",
        "_forward_hooks_always_called",
        "_forward_pre_hooks",
        "_forward_pre_hooks_with_kwargs",
        "_backward_hooks",
        "_backward_pre_hooks",
    }
)
