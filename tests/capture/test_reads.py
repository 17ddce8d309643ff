from __future__ import annotations

import enum
import os
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from mhc_compile.programs.bound_reads import bind
from tests.moved import Net, X, moved, net, programs

GAIN = 1.0
SETTINGS = types.SimpleNamespace(gain=1.0)


class InAttribute(Net):
    gain = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.gain = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.gain


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


@dataclass
class Config:
    gain: float = 1.0
    names: dict[str, Any] = field(default_factory=lambda: {"deep": {"gain": 1.0}})


REGISTRY = types.SimpleNamespace(by_type={Tensor: Config()}, by_dtype={torch.float32: Config()})


class InRegistry(Net):
    """Keyed by types, as that of einops, and looked up in by the position of the key."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * REGISTRY.by_type[type(x)].gain


class InDtypes(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * REGISTRY.by_dtype[x.dtype].gain


class InConfig(Net):
    def __init__(self) -> None:
        super().__init__()
        self.config = Config()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.config.gain * self.config.names["deep"]["gain"]


class InList(Net):
    def __init__(self) -> None:
        super().__init__()
        self.gains = [1.0, 1.0]

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        for gain in self.gains:
            x = x * gain
        return x


class InProperty(Net):
    def __init__(self) -> None:
        super().__init__()
        self.half = 0.5

    @property
    def gain(self) -> float:
        return 2 * self.half

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.gain


class InFunction(Net):
    def __init__(self) -> None:
        super().__init__()
        self.function = lambda x: x

    def forward(self, x: Tensor) -> Tensor:
        return self.function(super().forward(x))


class Mode(enum.Enum):
    ONCE = 1
    THRICE = 3


class InEnum(Net):
    def __init__(self) -> None:
        super().__init__()
        self.mode = Mode.ONCE

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (3.0 if self.mode is Mode.THRICE else 1.0)


class InPresence(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return x * self.gain if hasattr(self, "gain") else x


class InDefault(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * getattr(self, "gain", 1.0)


class InType(Net):
    def __init__(self) -> None:
        super().__init__()
        self.kind = Config()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1.0 if isinstance(self.kind, Config) else 3.0)


class InSet(Net):
    def __init__(self) -> None:
        super().__init__()
        self.switches = {"a"}

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (3.0 if "loud" in self.switches else 1.0)


class InKey(Net):
    def __init__(self) -> None:
        super().__init__()
        self.options: dict[str, float] = {}

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.options.get("gain", 1.0)


class InTensor(Net):
    def __init__(self) -> None:
        super().__init__()
        self.gain = torch.tensor(1.0)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.gain


class InTensors(Net):
    def __init__(self) -> None:
        super().__init__()
        self.gains = [torch.tensor(1.0)]

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.gains[0]


class InShape(Net):
    """Of a buffer, such as a table of positions that is made longer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (self.table.shape[0] / 2)


class InEnvironment(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * float(os.environ.get("MHC_COMPILE_TEST_GAIN", "1"))


class InParent(Net):
    """A child that knows the module around it."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = 1.0
        self.blocks[0].around = [self]

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.blocks[0].around[0].gain


class InPyTorch(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (3.0 if torch.are_deterministic_algorithms_enabled() else 1.0)


class InDelegated(Net):
    """Its `__getattr__`, as that of PEFT's wrappers, makes Dynamo go through `__dict__`."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = 1.0

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.gain


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
        lambda t: t.gains.insert(0, torch.tensor(3.0)),
        lambda t: t.gains.pop(0),
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


@pytest.mark.parametrize("place", PLACES)
def test_what_forward_reads_is_never_stale_and_costs_no_trace_once_it_is_as_before(place):
    make, change, change_back = PLACES[place]
    t = net(make)
    before = t(X)
    try:
        change(t)
        assert_close(t(X), 3 * before)
    finally:
        change_back(t)
    assert_close(t(X), before)
    assert programs(t) <= 2


def test_a_function_in_an_attribute_is_compared_by_itself():
    t = net(InFunction)
    before = t(X)
    t.function = lambda x: 3 * x
    assert_close(t(X), 3 * before)


def test_a_variable_of_the_function_around_is_read_anew():
    gain = 1.0

    class Inner(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * gain

    t = moved(Inner())
    before = t(X)
    gain = 3.0
    assert_close(t(X), 3 * before)


class AsksModes(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return x if torch.is_grad_enabled() else 3 * x


def test_a_branch_for_the_gradient_mode_is_taken_at_each_call():
    t = moved(AsksModes())
    before = t(X)
    with torch.no_grad():
        assert_close(t(X), 3 * before)
    assert_close(t(X), before)


class LeavesAutocast(Net):
    """What models with rotary embeddings do where autocast is on."""

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x).float()
        if torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                return x @ x.mT
        return x @ x.mT


def test_code_that_leaves_autocast_does_so_where_it_was_traced_without():
    t = moved(LeavesAutocast())
    t(X)
    with torch.autocast("cpu", torch.bfloat16):
        assert t(X).dtype == torch.float32
    assert t(X).dtype == torch.float32


class AsksForGradients(Net):
    def forward(self, x: Tensor) -> Tensor:
        frozen = not any(p.requires_grad for p in self.blocks.parameters())
        return super().forward(x) * (3.0 if frozen else 1.0) * (0.5 if x.requires_grad else 1.0)


def test_what_requires_gradients_is_read_where_code_asks_for_it():
    t = moved(AsksForGradients())
    before = t(X)
    t.blocks.requires_grad_(False)
    assert_close(t(X), 3 * before)
    t.blocks.requires_grad_(True)
    assert_close(t(X), before)
    assert programs(t) == 2


def test_whether_an_input_requires_gradients_is_read_where_code_asks_for_it():
    t = moved(AsksForGradients())
    before = t(X)
    assert_close(t(X.clone().requires_grad_()), 0.5 * before)
    assert_close(t(X), before)


def test_a_schedule_that_sets_a_tensor_before_each_call_leads_to_no_trace():
    t = net(InTensor)
    before = t(X)
    for gain in (2.0, 3.0, 4.0):
        t.gain = torch.tensor(gain)
        assert_close(t(X), gain * before)
    assert programs(t) == 1


def test_an_attribute_that_nobody_reads_leads_to_no_trace():
    t = net(InConfig)
    t.comment, t.config.other = "changed", 3
    t(X)
    assert programs(t) == 1


def test_what_has_changed_is_named():
    t = net()
    t.blocks[0].drop.p = 0.5
    assert bind(t._mhc.programs[0].reads, t) == "blocks.0.drop.p is 0.5, no longer 0.0"


def test_a_module_of_another_class_or_one_that_is_new_is_named():
    t = net()
    t.blocks[0].norm = nn.Identity()
    assert "blocks.0.norm is a Identity, no longer a LayerNorm" in str(bind(t._mhc.programs[0].reads, t))
    other = net()
    other.blocks[0].more = nn.Linear(2, 2)
    assert "blocks.0.more is new" in str(bind(other._mhc.programs[0].reads, other))
