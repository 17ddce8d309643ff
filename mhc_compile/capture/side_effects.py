"""What a forward does besides computing its result: a traced graph replays writes into tensors and nothing else."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn

from mhc_compile import _torch_compat as compat
from mhc_compile.wording import names_text

_WARNING = "While compiling, we found certain side effects"
_LISTED = re.compile(r"(\[.*\])\s*$", re.DOTALL)
_ROOT = "L['self']._modules['_export_root']"
_MODULE = re.compile(r"\._modules\['([^']+)'\]")

_PUT_BACK = frozenset({"G['__import_transformers_dot_utils_dot_output_capturing']._active_collector"})
"""What is as before when the call is over: the context variable behind `output_hidden_states` of transformers."""


ARGUMENTS: list[bool] = []
"""Traced code appends to it where a call has changed a container it was given. Traces write nothing: it is empty."""


@contextmanager
def arguments_watched(model: nn.Module, inputs: Any) -> Iterator[None]:
    """Lets lists and dicts among the inputs that a call of `model` changes be seen by `watched`.

    A trace takes their contents, and makes lists and dicts of its own of them: what is written there would be lost.

    Args:
        model: is given a `forward` in the block.
        inputs: `(args, kwargs)` of the call.
    """
    if not any(map(_holds_container, (*inputs[0], *inputs[1].values()))):
        yield
        return
    before, forward = vars(model).get("forward"), model.forward

    def watching(*args: Any, **kwargs: Any) -> Any:
        known = _contents((args, kwargs))
        result = forward(*args, **kwargs)
        if not _same_contents(known, _contents((args, kwargs))):
            ARGUMENTS.append(True)
        return result

    vars(model)["forward"] = watching
    try:
        yield
    finally:
        del vars(model)["forward"]
        if before is not None:
            vars(model)["forward"] = before


def _holds_container(value: Any) -> bool:
    if isinstance(value, tuple):
        return any(map(_holds_container, value))
    return isinstance(value, (list, dict))


def _contents(value: Any) -> list[Any]:
    """Keys and values, also of what lies deeper. Plain Python: it is traced."""
    if isinstance(value, dict):
        parts = list(value.values())
        found = [len(value), *value.keys()]
    elif isinstance(value, (list, tuple)):
        parts = list(value)
        found = [len(value)]
    else:
        return [value]
    for part in parts:
        found += _contents(part)
    return found


def _same_contents(known: list[Any], now: list[Any]) -> bool:
    if len(known) != len(now):
        return False
    for a, b in zip(known, now, strict=True):
        if isinstance(a, (int, float, str)):
            if a != b:
                return False
        elif a is not b:
            return False
    return True


@contextmanager
def watched() -> Iterator[set[str]]:
    """Collects what changed while tracing in the block, as Dynamo names it, from the model on where it lies there."""
    changed: set[str] = set()
    with compat.dynamo_config.patch(side_effect_replay_policy="warn"), warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", message=_WARNING)
        yield changed
    for warning in caught:
        text = str(warning.message)
        if text.startswith(_WARNING):
            listed = _LISTED.search(text)
            changed |= {name.removeprefix(_ROOT) for name in (ast.literal_eval(listed[1]) if listed else [text])}
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def lasting(changed: Collection[str]) -> tuple[str, ...]:
    """What a user can see afterwards, among what changed: attributes, lists, buffers that are replaced."""
    return tuple(sorted(name for name in changed if name not in _PUT_BACK))


def describe_effects(effects: Collection[str]) -> str:
    """Names of what a call changes: `blocks.0.losses`, or as Dynamo calls what lies outside of the model."""
    return names_text([_dotted(name) or "the model" for name in effects])


def _dotted(name: str) -> str:
    if name.endswith(".ARGUMENTS"):
        return "a list or dict that it is given"
    return _MODULE.sub(r".\1", name).replace("._buffers", "").lstrip(".")


def keep_dead_ends(gm: fx.GraphModule) -> None:
    """Let a captured graph return what nothing in it uses: that is what a call writes somewhere, such as a loss.

    So the residual connections on the way there are seen. The result serves to make a plan, and cannot be called.
    """
    output = gm.graph.output_node()
    ends = [node for node in gm.graph.nodes if node.op.startswith("call_") and not node.users and _is_new_tensor(node)]
    output.args = ((*output.args[0], *ends),)  # type: ignore[misc]


def _is_new_tensor(node: fx.Node) -> bool:
    """Whether a node computes a tensor, rather than to change one."""
    value = node.meta.get("val", node.meta.get("example_value"))
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return isinstance(value, torch.Tensor) and not name.endswith("_")
