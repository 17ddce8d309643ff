"""From the name a user writes on the command line to a model and inputs that can be traced.

Knows nothing of what is done with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from mhc_compile.errors import InvalidOptionError, UnknownTargetError
from mhc_compile.targets.factory import resolve_factory
from mhc_compile.targets.folder import CONFIG, resolve_folder
from mhc_compile.targets.huggingface import resolve_huggingface
from mhc_compile.targets.inputs import InputSpec, parse_input_spec, with_inputs
from mhc_compile.targets.options import parse_options
from mhc_compile.targets.target import Target
from mhc_compile.targets.timm import resolve_timm
from mhc_compile.targets.torchvision import resolve_torchvision

__all__ = ["InputSpec", "Target", "parse_input_spec", "parse_options", "resolve"]

_LIBRARIES = {"timm": resolve_timm, "torchvision": resolve_torchvision, "hf": resolve_huggingface}
_FORMS = "write timm:NAME, torchvision:NAME, hf:MODEL_TYPE, package.module:factory, file.py:factory or ./folder"
_WEIGHTS = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")
_NO_OPTIONS: Mapping[str, object] = MappingProxyType({})


def resolve(
    target: str,
    *,
    meta: bool = True,
    config: Mapping[str, object] = _NO_OPTIONS,
    inputs: Sequence[str] = (),
    batch: int = 2,
) -> Target:
    """Build the model a target names, and example inputs for it.

    Args:
        target: `timm:NAME`, `torchvision:NAME`, `hf:MODEL_TYPE`, `package.module:factory`, `file.py:factory` or
            a folder with a saved model of Hugging Face or timm.
        meta: build on the meta device, where a model of any size costs no memory; else on the CPU.
        config: options of the constructor; a dotted key reaches into a part of a Hugging Face configuration.
        inputs: input specs that replace the default inputs, see `parse_input_spec`.
        batch: batch size of the default inputs.

    Raises:
        UnknownTargetError: the target has none of these forms, or names something that does not exist.
        MissingPackageError: the library of the target is not installed.
        FactoryError: the model's constructor raised, or a factory returned something that is not a module.
        InvalidOptionError: `config`, `inputs` or `batch` cannot be used.
    """
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise InvalidOptionError(f"batch={batch!r} is not an int of at least 1: write for example batch=2")
    device = "meta" if meta else "cpu"
    folder = _folder(target)
    if folder is not None:
        return with_inputs(resolve_folder(folder, device=device, config=config, batch=batch), inputs)
    scheme, colon, name = target.partition(":")
    if not colon or not scheme or not name:
        raise UnknownTargetError(f"the target {target!r} cannot be understood: {_FORMS}{_suggestion(target)}")
    if scheme in _LIBRARIES:
        found = _LIBRARIES[scheme](name, device=device, config=config, batch=batch)
    else:
        found = resolve_factory(target, device=device, config=config)
    return with_inputs(found, inputs)


def _folder(target: str) -> Path | None:
    """The folder that a target names, by itself, by its configuration, or behind `hf:` and `timm:`."""
    scheme, _, name = target.partition(":")
    for text in (target, name) if scheme in ("hf", "timm") else (target,):
        path = Path(text).expanduser()
        path = path.parent if path.name == CONFIG else path
        if text and path.is_dir():
            return path
    return None


def _suggestion(target: str) -> str:
    if target.endswith(_WEIGHTS):
        return ". A file of weights does not say which code they belong to"
    if "/" in target or "\\" in target:
        return f". There is no folder {target!r}"
    if target.endswith(".py"):
        return f" (for example {target}:make_model)"
    return f" (for example timm:{target} or hf:{target})" if target.replace("_", "").isalnum() else ""
