"""Where a forward may read a value: a model for each place, and how the value is changed and changed back."""

from __future__ import annotations

import os
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.capture.readers import (
    Config,
    InAttribute,
    InConfig,
    InDefault,
    InDelegated,
    InEnum,
    InKey,
    InList,
    InParent,
    InPresence,
    InProperty,
    InSet,
    InShape,
    InTensor,
    InTensors,
    InType,
    Mode,
)
from tests.moved import Net

GAIN = 1.0
SETTINGS = types.SimpleNamespace(gain=1.0)


class InClass(Net):
    gain = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.gain


class InBaseClass(InClass):
    pass


class InGlobal(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * GAIN


class InGlobalObject(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * SETTINGS.gain


REGISTRY = types.SimpleNamespace(by_type={Tensor: Config()}, by_dtype={torch.float32: Config()})


class InRegistry(Net):
    """Keyed by types, as that of einops, and looked up in by the position of the key."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * REGISTRY.by_type[type(x)].gain


class InDtypes(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * REGISTRY.by_dtype[x.dtype].gain


class InEnvironment(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * float(os.environ.get("MHC_COMPILE_TEST_GAIN", "1"))


class InPyTorch(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (3.0 if torch.are_deterministic_algorithms_enabled() else 1.0)


def set_global(value: float) -> None:
    globals()["GAIN"] = value


def set_class(kind: type, value: float) -> None:
    kind.gain = value


PLACES: dict[str, tuple[type[Net], Callable[[Any], None], Callable[[Any], None]]] = {
    "attribute": (InAttribute, lambda t: setattr(t, "gain", 3.0), lambda t: setattr(t, "gain", 1.0)),
    "class": (InClass, lambda t: set_class(InClass, 3.0), lambda t: set_class(InClass, 1.0)),
    "base class": (InBaseClass, lambda t: set_class(InClass, 3.0), lambda t: set_class(InClass, 1.0)),
    "global": (InGlobal, lambda t: set_global(3.0), lambda t: set_global(1.0)),
    "global object": (
        InGlobalObject,
        lambda t: setattr(SETTINGS, "gain", 3.0),
        lambda t: setattr(SETTINGS, "gain", 1.0),
    ),
    "config": (InConfig, lambda t: setattr(t.config, "gain", 3.0), lambda t: setattr(t.config, "gain", 1.0)),
    "config that is replaced": (
        InConfig,
        lambda t: setattr(t, "config", Config(gain=3.0)),
        lambda t: setattr(t, "config", Config()),
    ),
    "dict in a dict": (
        InConfig,
        lambda t: t.config.names["deep"].update(gain=3.0),
        lambda t: t.config.names["deep"].update(gain=1.0),
    ),
    "key that is a type": (
        InRegistry,
        lambda t: setattr(REGISTRY.by_type[Tensor], "gain", 3.0),
        lambda t: setattr(REGISTRY.by_type[Tensor], "gain", 1.0),
    ),
    "key that is a dtype": (
        InDtypes,
        lambda t: setattr(REGISTRY.by_dtype[torch.float32], "gain", 3.0),
        lambda t: setattr(REGISTRY.by_dtype[torch.float32], "gain", 1.0),
    ),
    "list": (InList, lambda t: t.gains.append(3.0), lambda t: t.gains.pop()),
    "item of a list": (InList, lambda t: t.gains.__setitem__(0, 3.0), lambda t: t.gains.__setitem__(0, 1.0)),
    "property": (InProperty, lambda t: setattr(t, "half", 1.5), lambda t: setattr(t, "half", 0.5)),
    "enum": (InEnum, lambda t: setattr(t, "mode", Mode.THRICE), lambda t: setattr(t, "mode", Mode.ONCE)),
    "presence": (InPresence, lambda t: setattr(t, "gain", 3.0), lambda t: delattr(t, "gain")),
    "default": (InDefault, lambda t: setattr(t, "gain", 3.0), lambda t: delattr(t, "gain")),
    "set": (InSet, lambda t: t.switches.add("loud"), lambda t: t.switches.discard("loud")),
    "key of a dict": (InKey, lambda t: t.options.update(gain=3.0), lambda t: t.options.clear()),
    "tensor": (InTensor, lambda t: setattr(t, "gain", torch.tensor(3.0)), lambda t: t.gain.div_(3)),
    "tensor in a list": (
        InTensors,
        lambda t: t.gains.reverse(),
        lambda t: t.gains.reverse(),
    ),
    "shape": (InShape, lambda t: setattr(t, "table", torch.ones(6)), lambda t: setattr(t, "table", torch.ones(2))),
    "environment": (
        InEnvironment,
        lambda t: os.environ.update(MHC_COMPILE_TEST_GAIN="3"),
        lambda t: os.environ.pop("MHC_COMPILE_TEST_GAIN"),
    ),
    "module around": (InParent, lambda t: setattr(t, "gain", 3.0), lambda t: setattr(t, "gain", 1.0)),
    "state of PyTorch": (
        InPyTorch,
        lambda t: torch.use_deterministic_algorithms(True),
        lambda t: torch.use_deterministic_algorithms(False),
    ),
    "attribute behind a __getattr__": (
        InDelegated,
        lambda t: setattr(t, "gain", 3.0),
        lambda t: setattr(t, "gain", 1.0),
    ),
    "type": (InType, lambda t: setattr(t, "kind", None), lambda t: setattr(t, "kind", Config())),
}
