"""What owns hyper-connections, as code below the transformed model may know it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from mhc_compile.config import Config
from mhc_compile.hyper_connections import HyperConnections
from mhc_compile.passes.plan import Plan


@dataclass
class Conversion:
    """How a model was transformed.

    Attributes:
        original: class of the model that was transformed.
        config: options it was transformed with.
        plans: of all modes that were traced by `transform`; the first that names a key decides about its parameters.
    """

    original: type[nn.Module]
    config: Config
    plans: tuple[Plan, ...] = ()


class Owner(nn.Module):
    """A transformed model, or a stage of a pipeline that was cut from one."""

    _mhc: Conversion
    hyper_connections: HyperConnections
