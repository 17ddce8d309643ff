"""The inputs a model is traced with: given, declared by the model, or missing."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from mhc_compile._torch_compat import tree_flatten, tree_map
from mhc_compile.capture.trace_errors import describe_call, describe_tensor
from mhc_compile.errors import InputMismatchError, MissingInputsError, MixedDeviceError


@dataclass(frozen=True)
class Inputs:
    """Arguments of one call of a model."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)


def resolve_inputs(model: nn.Module, args: Any, kwargs: Mapping[str, Any] | None) -> Inputs | None:
    """The given inputs, else those the model declares, else None; checked against its signature and device.

    Declared are `dummy_inputs` or what the configuration says (Hugging Face), `pretrained_cfg` or `default_cfg` with
    `input_size` (timm) and `example_input_array` (Lightning).

    Raises:
        InputMismatchError: the inputs do not fit the signature of `forward`.
        MixedDeviceError: parameters and inputs are not all on one device.
    """
    device = _device(model)
    if args is None and kwargs is None:
        inputs = next((i for i in _declared(model, device) if _misfit(model, i) is None), None)
        return Inputs() if inputs is None and _takes_nothing(model) else inputs
    inputs = Inputs(_positional(args), _named(kwargs))
    misfit = _misfit(model, inputs)
    if misfit:
        raise InputMismatchError(
            f"{describe_call(model, inputs.args, inputs.kwargs)}: {misfit}\n"
            f"forward takes {inspect.signature(model.forward)}: "
            "write example_inputs=(x,) for positional and example_kwargs={'name': value} for keyword arguments"
        )
    _check_devices(inputs, device)
    return inputs


def missing_inputs(model: nn.Module, why: str) -> MissingInputsError:
    """The error that shows the call to write."""
    return MissingInputsError(
        f"{type(model).__name__} declares no example inputs and cannot be traced without ({why}): pass them as in "
        f"mhc_compile.transform(model, n=4, example_inputs=(torch.randn(2, 3, 224, 224),)); "
        f"forward takes {inspect.signature(model.forward)}"
    )


def _positional(args: Any) -> tuple[Any, ...]:
    if isinstance(args, torch.Tensor):
        return (args,)
    if isinstance(args, Mapping):
        raise InputMismatchError("example_inputs is a dict: write example_kwargs={...} for keyword arguments")
    if args is not None and not isinstance(args, (tuple, list)):
        raise InputMismatchError(f"example_inputs is a {type(args).__name__}: write example_inputs=(x,)")
    return tuple(args or ())


def _named(kwargs: Any) -> dict[str, Any]:
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise InputMismatchError(f"example_kwargs is a {type(kwargs).__name__}: write example_kwargs={{'name': value}}")
    return dict(kwargs or {})


def _misfit(model: nn.Module, inputs: Inputs) -> str | None:
    try:
        inspect.signature(model.forward).bind(*inputs.args, **inputs.kwargs)
    except TypeError as error:
        return str(error)
    return None


def _takes_nothing(model: nn.Module) -> bool:
    return not inspect.signature(model.forward).parameters


def _declared(model: nn.Module, device: torch.device | None) -> Iterable[Inputs]:
    """Every declaration found, on the device and in the floating dtype of the model."""
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)

    def place(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return value.to(device=device, dtype=dtype if value.is_floating_point() else None)

    dummy = getattr(model, "dummy_inputs", None)
    if isinstance(dummy, Mapping) and getattr(model, "main_input_name", None) in (None, *dummy):
        yield Inputs(kwargs=tree_map(place, {**_for_decoder(model, dummy), **dummy}))
    if hasattr(model, "main_input_name") and hasattr(model, "config"):
        yield Inputs(kwargs=tree_map(place, _of_huggingface(model)))
    for name in ("pretrained_cfg", "default_cfg"):
        config = getattr(model, name, None)
        if isinstance(config, Mapping) and config.get("input_size"):
            yield Inputs((torch.zeros(2, *_image_of_timm(model, config), device=device, dtype=dtype),))
    example = getattr(model, "example_input_array", None)
    if isinstance(example, Mapping):
        yield Inputs(kwargs=tree_map(place, dict(example)))
    elif example is not None:
        yield Inputs(tree_map(place, _positional(example)))


def _image_of_timm(model: nn.Module, config: Mapping[str, Any]) -> tuple[int, ...]:
    """Channels, height and width: those that the model was built with, where it is known, for timm only declares."""
    channels, *size = config["input_size"]
    asked = (getattr(module, "img_size", None) for module in model.modules())
    built = next((tuple(each) for each in asked if isinstance(each, tuple) and len(each) == len(size)), tuple(size))
    names = config.get("first_conv") or ()
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and name in ((names,) if isinstance(names, str) else names):
            channels = module.in_channels
    return channels, *built


def _for_decoder(model: Any, dummy: Mapping[str, Any]) -> dict[str, Any]:
    """Most encoder-decoders of transformers declare inputs of the encoder alone, which some cannot run on."""
    if not getattr(getattr(model, "config", None), "is_encoder_decoder", False) or "input_ids" not in dummy:
        return {}
    takes = "decoder_input_ids" in inspect.signature(model.forward).parameters
    return {"decoder_input_ids": dummy["input_ids"]} if takes else {}


def _of_huggingface(model: nn.Module) -> dict[str, Any]:
    """For models of images and sound, which declare tokens as all of transformers do."""
    from mhc_compile.targets.huggingface_inputs import default_inputs  # late

    kwargs = default_inputs(model, 2, torch.device("cpu"))[0]
    return {name: value for name, value in kwargs.items() if name != "use_cache"}


def _device(model: nn.Module) -> torch.device | None:
    """The one device of the parameters, None without parameters."""
    first: dict[torch.device, str] = {}
    for name, parameter in model.named_parameters():
        first.setdefault(parameter.device, name)
    if len(first) > 1:
        where = ", ".join(f"{name} on {device}" for device, name in first.items())
        raise MixedDeviceError(f"the parameters lie on {len(first)} devices ({where}): write model.to(device) first")
    return next(iter(first), None)


def _check_devices(inputs: Inputs, device: torch.device | None) -> None:
    for value in tree_flatten((inputs.args, inputs.kwargs))[0]:
        stray = isinstance(value, torch.Tensor) and value.dim() > 0 and device is not None and value.device != device
        if stray:
            raise MixedDeviceError(
                f"an example input {describe_tensor(value)} is on {value.device}, the parameters are on {device}: "
                f"write x.to('{device}') for the inputs"
            )
