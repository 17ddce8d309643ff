"""The steps of a rewrite for models whose tensors are distributed over the processes of a device mesh.

Mixing is per token, so each process computes on the tokens that it has: streams may be sharded over batch and
sequence, never over channels. Streams and what branches read and return are `DTensor`s where the model's own are, else
plain local tensors; coefficients are always local. New parameters are the same on all processes. Where these hold other
tokens, the gradient of a parameter is the sum over them: added up at the end of the backward where somebody does so,
else in one reduction for each site.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate

from mhc_compile.kernels.operators import single_pass, streams
from mhc_compile.kernels.operators.places import Over as Over
from mhc_compile.kernels.operators.places import Places, channels_sharded, check_places, uneven

ONE, ALL, LOCAL = "one", "all", "local"
"""What a result is: a tensor like `x`, the streams `[n, *x.shape]`, or coefficients."""

RESULTS: Mapping[Callable[..., Any], tuple[str, ...]] = MappingProxyType(
    {
        streams.expand: (ALL,),
        streams.coefficients: (LOCAL, LOCAL, LOCAL),
        streams.entry_coefficients: (LOCAL, LOCAL, LOCAL),
        streams.read: (ONE,),
        streams.entry_read: (ONE,),
        streams.equal_weights: (LOCAL,),
        streams.entry_equal_weights: (LOCAL,),
        streams.write: (ALL,),
        streams.entry_write: (ALL,),
        streams.reduce: (ONE,),
        streams.gate: (ONE, LOCAL),
        streams.entry_gate: (ONE, LOCAL),
        streams.write_packed: (ALL,),
        streams.entry_write_packed: (ALL,),
        streams.boundary: (ALL, ONE, LOCAL),
        streams.entry_boundary: (ALL, ONE, LOCAL),
        streams.leave: (ONE,),
        streams.entry_leave: (ONE,),
        single_pass.single_gate: (LOCAL, LOCAL),
        single_pass.entry_single_gate: (LOCAL, LOCAL),
        single_pass.single_boundary: (ALL, ONE, LOCAL, LOCAL),
        single_pass.entry_single_boundary: (ALL, ONE, LOCAL, LOCAL),
        single_pass.single_leave: (ONE,),
        single_pass.entry_single_leave: (ONE,),
        single_pass.read_weights: (LOCAL,),
        single_pass.entry_read_weights: (LOCAL,),
    }
)
"""The functions of `streams.py` and `single_pass.py` -> what they return."""

FROM_ONE = frozenset(
    f
    for f in RESULTS
    if f is streams.expand or (f.__name__.startswith("entry_") and f is not single_pass.entry_read_weights)
)
"""Those that take a tensor like `x` first; the others take streams, or coefficients of them."""

_WITH_PARAMETERS = ("coefficients", "gate", "boundary", "single_gate", "single_boundary")
TAKES_PARAMETERS = frozenset({"reduce", *_WITH_PARAMETERS, *(f"entry_{name}" for name in _WITH_PARAMETERS)})


class Sums(Protocol):
    """Adds up gradients at the end of a backward."""

    def owe(self, x: Tensor, names: Sequence[str], over: Over | None) -> bool:
        """Whether it will do so for parameters of these names; `over` is None where there is nothing to add up."""


class Spread:
    """How the streams of one chain of sites lie on the processes; known once they have begun.

    Attributes:
        meshes: gives those over which the parameters of the model are distributed.
        names: of the parameters that the sites of the chain have.
        places: of streams that are `DTensor`s.
        over: the processes that hold other tokens, None if none does.
        later: whether gradients will be added up at the end of the backward.
    """

    def __init__(self, meshes: Callable[[], Sequence[DeviceMesh]], sums: Sums | None = None) -> None:
        """Know how to ask for the meshes of a model, which may be distributed later, and who adds up gradients."""
        self.meshes, self.sums = meshes, sums
        self.names: dict[str, None] = {}  # in order, each once
        self.places: Places | None = None
        self.over: Over | None = None
        self.later = False
        self._bound: dict[Callable[..., Any], Callable[..., Any]] = {}

    def enter(self, x: Tensor, whole: Sequence[int], axis: int) -> Tensor:
        """The value where streams begin, once it is clear which part of it this process has.

        Args:
            x: as the model computes it.
            whole: its shape according to the inputs of the call.
            axis: index of the channels.

        Raises:
            ParallelError: it is a part of the channels, or one that is no whole fraction of the sequence.
        """
        self.places = self.over = None
        if isinstance(x, DTensor):
            check_places(x, axis % x.ndim)
            self.places = Places.of(x)
            self.over = self.places.over
        else:
            other = [i for i, (here, size) in enumerate(zip(x.shape, whole, strict=True)) if here != size]
            self.over = (self._mesh_of(x, whole, other, axis % x.ndim), (Partial(),)) if other else None
        self.later = self.sums is not None and self.sums.owe(x, list(self.names), self.over)
        return x

    def bound(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function of `streams.py` for these streams; always the same, so that blocks that are alike still are."""
        if function not in self._bound:
            self._bound[function] = _bound(function, self)
        return self._bound[function]

    def _mesh_of(self, x: Tensor, whole: Sequence[int], other: Sequence[int], axis: int) -> DeviceMesh:
        if axis in other:
            raise channels_sharded()
        here, size, meshes = x.shape[other[0]], whole[other[0]], self.meshes()
        fitting = [mesh for mesh in meshes if mesh.ndim == 1 and here * mesh.size() == size]
        if len(other) > 1 or len(fitting) != 1:
            raise uneven(list(x.shape), list(whole), " or ".join(str(mesh.size()) for mesh in meshes) or "one")
        return fitting[0]


def _bound(function: Callable[..., Any], spread: Spread) -> Callable[..., Any]:
    results, from_one = RESULTS[function], function in FROM_ONE
    takes_parameters = function.__name__ in TAKES_PARAMETERS

    def call(first: Tensor, *args: Any, **kwargs: Any) -> Any:
        shard = _Part(first, from_one, spread)
        values, parameters = (args[:-1], args[-1:]) if takes_parameters else (args, ())
        args = (*map(shard.local, values), *map(shard.parameters, parameters))
        kwargs = {name: shard.local(value) for name, value in kwargs.items()}
        found = function(shard.local(first), *args, **kwargs)
        if len(results) == 1:
            return shard.result(found, results[0])
        return tuple(shard.result(value, kind) for value, kind in zip(found, results, strict=True))

    call.__name__ = call.__qualname__ = function.__name__
    call.__module__ = __name__
    return call


class _Part:
    """The part of distributed streams that this process has."""

    def __init__(self, first: Tensor, from_one: bool, spread: Spread) -> None:
        self.places: Places | None = None
        self.over = spread.over
        if isinstance(first, DTensor):
            places = spread.places  # as a rule: what is computed here could not be compiled
            if places is None or first.placements != (places.one if from_one else places.all):
                places = Places.of(first) if from_one else Places.of_all(first)
                self.over = places.over
            self.places = places
        if spread.later:
            self.over = None

    def local(self, value: Any) -> Any:
        """What this process has of a tensor, and of each tensor in a tuple."""
        if isinstance(value, (tuple, list)):
            return tuple(map(self.local, value))
        if not isinstance(value, DTensor):
            return value
        places = self.places
        if places is not None and value.ndim in (places.rank, places.rank + 1):
            wanted = places.one if value.ndim == places.rank else places.all
            value = value if value.placements == wanted else value.redistribute(places.mesh, wanted)
        return value.to_local()

    def parameters(self, values: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Parameters, which are the same everywhere, with gradients that are added up where they have to be."""
        values = [value.to_local() if isinstance(value, DTensor) else value for value in values]
        if self.over is None or not values:
            return tuple(values)
        mesh, partial = self.over
        flat = torch.cat([value.reshape(-1) for value in values])
        whole = DTensor.from_local(flat, mesh, [Replicate()] * mesh.ndim, run_check=False)
        parts = whole.to_local(grad_placements=partial).split([value.numel() for value in values])
        return tuple(part.view(value.shape) for part, value in zip(parts, values, strict=True))

    def result(self, value: Tensor, kind: str) -> Tensor:
        """A result as the model's own tensors are."""
        if kind == LOCAL or self.places is None:
            return value
        placements = self.places.all if kind == ALL else self.places.one
        return DTensor.from_local(value.contiguous(), self.places.mesh, placements, run_check=False)
