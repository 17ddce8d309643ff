"""Models that read a value which they have themselves: in an attribute, a list, a configuration, a buffer."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tests.moved import Net


class InAttribute(Net):
    gain = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.gain = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.gain


@dataclass
class Config:
    gain: float = 1.0
    names: dict[str, Any] = field(default_factory=lambda: {"deep": {"gain": 1.0}})


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
        self.gains = [torch.tensor(1.0), torch.tensor(3.0)]

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.gains[0]


class InShape(Net):
    """Of a buffer, such as a table of positions that is made longer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (self.table.shape[0] / 2)


class InParent(Net):
    """A child that knows the module around it."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = 1.0
        self.blocks[0].around = [self]

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.blocks[0].around[0].gain


class InDelegated(Net):
    """Its `__getattr__`, as that of PEFT's wrappers, makes Dynamo go through `__dict__`."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = 1.0

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.gain
