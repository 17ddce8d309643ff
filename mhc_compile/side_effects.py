"""What a forward does besides computing its result: a traced graph replays writes into tensors and nothing else."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from torch import nn

from mhc_compile import _torch_compat as compat
from mhc_compile.errors import CaptureError

_WARNING = "While compiling, we found certain side effects"
_LISTED = re.compile(r"(\[.*\])\s*$", re.DOTALL)
_ROOT = "L['self']._modules['_export_root']"
_BUFFERS = re.compile(r"((?:\._modules\['[^']+'\])*)\._buffers$")

_PUT_BACK = frozenset({"G['__import_transformers_dot_utils_dot_output_capturing']._active_collector"})
"""What is as before when the call is over: the context variable behind `output_hidden_states` of transformers."""


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


def check_buffers(model: nn.Module, changed: Collection[str]) -> None:
    """Refuse a trace that replaces a buffer instead of writing to it.

    Buffers that no checkpoint holds are caches (of rotary embeddings, say).

    Raises:
        CaptureError: training would silently use the old one.
    """
    for name in sorted(changed):
        found = _BUFFERS.match(name)
        if found is None:
            continue
        path = ".".join(re.findall(r"\['([^']+)'\]", found[1]))
        module = model.get_submodule(path)
        if set(module._buffers) - module._non_persistent_buffers_set:
            raise CaptureError(
                f"forward assigns to a buffer of {path or 'the model'} (self.buffer = ...), which a traced graph does "
                "not do: write into it, as in self.buffer.copy_(value) or self.buffer.mul_(0.9).add_(value, alpha=0.1)"
            )


def lasting(changed: Collection[str]) -> tuple[str, ...]:
    """What a user can see afterwards, among what changed."""
    return tuple(sorted(name for name in changed if name not in _PUT_BACK and not _BUFFERS.match(name)))
