"""What a forward does besides computing its result: a traced graph replays writes into tensors and nothing else."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from mhc_compile import _torch_compat as compat
from mhc_compile.wording import names_text

_WARNING = "While compiling, we found certain side effects"
_LISTED = re.compile(r"(\[.*\])\s*$", re.DOTALL)
_ROOT = "L['self']._modules['_export_root']"
_MODULE = re.compile(r"\._modules\['([^']+)'\]")

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


def lasting(changed: Collection[str]) -> tuple[str, ...]:
    """What a user can see afterwards, among what changed: attributes, lists, buffers that are replaced."""
    return tuple(sorted(name for name in changed if name not in _PUT_BACK))


def describe_effects(effects: Collection[str]) -> str:
    """Names of what a call changes: `blocks.0.losses`, or as Dynamo calls what lies outside of the model."""
    return names_text([_dotted(name) or "the model" for name in effects])


def _dotted(name: str) -> str:
    return _MODULE.sub(r".\1", name).replace("._buffers", "").lstrip(".")
