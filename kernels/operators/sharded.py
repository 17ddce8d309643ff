"""The functions of `streams.py` for models whose tensors are distributed over the processes of a device mesh.

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
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard

from mhc_compile.errors import ParallelError
from mhc_compile.kernels.operators import streams

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
    }
)
"""The functions of `streams.py` -> what they return."""

FROM_ONE = frozenset(f for f in RESULTS if f is streams.expand or f.__name__.startswith("entry_"))
"""Those that take a tensor like `x` first; the others take streams."""

TAKES_PARAMETERS = frozenset(
    {"coefficients", "entry_coefficients", "reduce", "gate", "entry_gate", "boundary", "entry_boundary"}
)


class Sums(Protocol):
    """Adds up gradients at the end of a backward."""

    def owe(self, x: Tensor, names: Sequence[str], over: tuple[DeviceMesh, tuple[Placement, ...]] | None) -> bool:
        """Whether it will do so for parameters of these names; `over` is None where there is nothing to add up."""


class Spread:
    """How the streams of one chain of sites lie on the processes, where they are plain tensors.

    Attributes:
        meshes: gives those over which the parameters of the model are distributed.
        names: of the parameters that the sites of the chain have.
        over: the mesh over whose processes the sequence is cut, None where all have the same tokens; known once the
            streams have begun.
        later: whether gradients will be added up at the end of the backward.
    """

    def __init__(self, meshes: Callable[[], Sequence[DeviceMesh]], sums: Sums | None = None) -> None:
        """Know how to ask for the meshes of a model, which may be distributed later, and who adds up gradients."""
        self.meshes, self.sums = meshes, sums
        self.names: dict[str, None] = {}  # in order, each once
        self.over: DeviceMesh | None = None
        self.later = False

    def enter(self, x: Tensor, whole: Sequence[int], axis: int) -> Tensor:
        """The value where streams begin, once it is clear which part of it this process has.

        Args:
            x: as the model computes it.
            whole: its shape according to the inputs of the call.
            axis: index of the channels.

        Raises:
            ParallelError: it is a part of the channels, or one that is no whole fraction of the sequence.
        """
        if isinstance(x, DTensor):
            _check_placements(x, axis % x.ndim)
            self._tell(x, _partial(x))
            return x
        other = [i for i, (here, size) in enumerate(zip(x.shape, whole, strict=True)) if here != size]
        self.over = self._mesh_of(x, whole, other, axis % x.ndim) if other else None
        self._tell(x, (self.over, (Partial(),)) if self.over is not None else None)
        return x

    def _tell(self, x: Tensor, over: tuple[DeviceMesh, tuple[Placement, ...]] | None) -> None:
        self.later = self.sums is not None and self.sums.owe(x, list(self.names), over)

    def _mesh_of(self, x: Tensor, whole: Sequence[int], other: Sequence[int], axis: int) -> DeviceMesh:
        if axis in other:
            raise _channels_sharded()
        here, size, meshes = x.shape[other[0]], whole[other[0]], self.meshes()
        fitting = [mesh for mesh in meshes if mesh.ndim == 1 and here * mesh.size() == size]
        if len(other) > 1 or len(fitting) != 1:
            raise _uneven(list(x.shape), list(whole), " or ".join(str(mesh.size()) for mesh in meshes) or "one")
        return fitting[0]


def bound(function: Callable[..., Any], spread: Spread) -> Callable[..., Any]:
    """A function of `streams.py` for tensors that may be distributed."""
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
    """The part of distributed streams that this process has; `placements` are those of a tensor like `x`."""

    def __init__(self, first: Tensor, from_one: bool, spread: Spread) -> None:
        self.mesh: DeviceMesh | None = None
        self.sums: tuple[DeviceMesh, tuple[Placement, ...]] | None = None
        if isinstance(first, DTensor):
            moved = 0 if from_one else 1
            self.mesh = first.device_mesh
            self.placements = [_moved(p, -moved) for p in first.placements]
            self.rank = first.ndim - moved
            self.sums = _partial(first)
        elif spread.over is not None:
            self.sums = (spread.over, (Partial(),))
        if spread.later:
            self.sums = None

    def local(self, value: Any) -> Any:
        """What this process has of a tensor, and of each tensor in a tuple."""
        if isinstance(value, (tuple, list)):
            return tuple(map(self.local, value))
        if not isinstance(value, DTensor):
            return value
        if self.mesh is not None and value.ndim in (self.rank, self.rank + 1):
            wanted = [_moved(p, value.ndim - self.rank) for p in self.placements]
            value = value if list(value.placements) == wanted else value.redistribute(self.mesh, wanted)
        return value.to_local()

    def parameters(self, values: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Parameters, which are the same everywhere, with gradients that are added up where they have to be."""
        values = [value.to_local() if isinstance(value, DTensor) else value for value in values]
        if self.sums is None or not values:
            return tuple(values)
        mesh, partial = self.sums
        flat = torch.cat([value.reshape(-1) for value in values])
        whole = DTensor.from_local(flat, mesh, [Replicate()] * mesh.ndim, run_check=False)
        parts = whole.to_local(grad_placements=partial).split([value.numel() for value in values])
        return tuple(part.view(value.shape) for part, value in zip(parts, values, strict=True))

    def result(self, value: Tensor, kind: str) -> Tensor:
        """A result as the model's own tensors are."""
        if kind == LOCAL or self.mesh is None:
            return value
        placements = [_moved(p, 1 if kind == ALL else 0) for p in self.placements]
        return DTensor.from_local(value.contiguous(), self.mesh, placements, run_check=False)


def _partial(x: DTensor) -> tuple[DeviceMesh, tuple[Placement, ...]] | None:
    """How the gradients of parameters lie that are used on the tokens of `x`, None if no process has others."""
    placements = tuple(Partial() if p.is_shard() else Replicate() for p in x.placements)
    return (x.device_mesh, placements) if any(p.is_partial() for p in placements) else None


def _moved(placement: Placement, by: int) -> Placement:
    return Shard(placement.dim + by) if isinstance(placement, Shard) else placement


def _check_placements(x: DTensor, axis: int) -> None:
    for size, placement in zip(x.device_mesh.shape, x.placements, strict=True):
        if not (placement.is_replicate() or type(placement) is Shard):
            raise ParallelError(
                f"the residual streams begin at a tensor that is placed as {placement}: it has to be sharded over "
                "batch or sequence, or replicated; write output_layouts=Replicate() or Shard(1) for what makes it"
            )
        if isinstance(placement, Shard) and placement.dim == axis:
            raise _channels_sharded()
        if isinstance(placement, Shard) and x.shape[placement.dim] % size:
            raise _uneven(list(x.to_local().shape), list(x.shape), str(size))


def _uneven(here: list[int], whole: list[int], size: str) -> ParallelError:
    return ParallelError(
        f"the residual streams begin at a tensor of shape {here} in this process, and {whole} in all: each process of "
        f"a group of {size} has to have an equal part of the sequence. Pad the sequence to a multiple of the size"
    )


def _channels_sharded() -> ParallelError:
    return ParallelError(
        "the residual streams are sharded over their channels, and a coefficient is computed from all channels of a "
        "token: shard them over batch or sequence (output_layouts=Shard(0) or Shard(1)), or replicate them"
    )
