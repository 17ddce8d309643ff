"""What a forward does besides computing its result: a traced graph replays writes into tensors and nothing else."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from mhc_compile import _torch_compat as compat
from mhc_compile.errors import CaptureError

_WARNING = "While compiling, we found certain side effects"
_CHANGED = re.compile(r"L\['self'\]\._modules\['_export_root'\]((?:\._modules\['[^']+'\])*)(\.\w+)?")


@contextmanager
def watched() -> Iterator[set[tuple[str, str]]]:
    """Collects pairs (module path, attribute) of what changed while tracing in the block; "" where it is not known."""
    changed: set[tuple[str, str]] = set()
    with compat.dynamo_config.patch(side_effect_replay_policy="warn"), warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", message=_WARNING)
        yield changed
    for warning in caught:
        text = str(warning.message)
        if text.startswith(_WARNING):
            changed |= {(_path(modules), name.lstrip(".")) for modules, name in _CHANGED.findall(text)}
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def _path(modules: str) -> str:
    return ".".join(re.findall(r"\['([^']+)'\]", modules))


def check_side_effects(model: nn.Module, changed: set[tuple[str, str]]) -> tuple[str, ...]:
    """Notes on changes that the traced code leaves out.

    Raises:
        CaptureError: a buffer is replaced instead of written to, so that training would silently use the old one.
            Buffers that no checkpoint holds are caches (of rotary embeddings, say), and only noted.
    """
    for path, name in sorted(changed):
        module = model.get_submodule(path)
        if name == "_buffers" and set(module._buffers) - module._non_persistent_buffers_set:
            raise CaptureError(
                f"forward assigns to a buffer of {path or 'the model'} (self.buffer = ...), which a traced graph does "
                "not do: write into it, as in self.buffer.copy_(value) or self.buffer.mul_(0.9).add_(value, alpha=0.1)"
            )
    owners = sorted({path or "the model" for path, _ in changed})
    if not owners:
        return ()
    return (f"forward changes Python attributes of {', '.join(owners)}; the transformed model does not",)
