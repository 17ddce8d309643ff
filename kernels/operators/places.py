"""Where the parts of distributed streams lie, and where they must not."""

from __future__ import annotations

from dataclasses import dataclass

from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard

from mhc_compile.errors import ParallelError

Over = tuple[DeviceMesh, tuple[Placement, ...]]
"""A mesh, and how gradients of parameters lie on it whose processes have other tokens."""


@dataclass(frozen=True)
class Places:
    """Where the parts of streams lie that are `DTensor`s.

    Attributes:
        mesh: the processes.
        rank: number of axes of one stream.
        one: placements of one stream.
        all: placements of all streams.
    """

    mesh: DeviceMesh
    rank: int
    one: tuple[Placement, ...]
    all: tuple[Placement, ...]

    @classmethod
    def of(cls, one: DTensor) -> Places:
        """As one stream lies."""
        places = one.placements
        return cls(one.device_mesh, one.ndim, places, tuple(_moved(p, 1) for p in places))

    @classmethod
    def of_all(cls, streams: DTensor) -> Places:
        """As all streams lie."""
        places = streams.placements
        return cls(streams.device_mesh, streams.ndim - 1, tuple(_moved(p, -1) for p in places), places)

    @property
    def over(self) -> Over | None:
        """The processes that hold other tokens, None if none does."""
        partial = tuple(Partial() if p.is_shard() else Replicate() for p in self.one)
        return (self.mesh, partial) if any(p.is_partial() for p in partial) else None


def _moved(placement: Placement, by: int) -> Placement:
    return Shard(placement.dim + by) if isinstance(placement, Shard) else placement


def check_places(x: DTensor, axis: int) -> None:
    """Whether streams may begin at a tensor that is placed so; `axis` is that of its channels.

    Raises:
        ParallelError: they may not.
    """
    for size, placement in zip(x.device_mesh.shape, x.placements, strict=True):
        if not (placement.is_replicate() or type(placement) is Shard):
            raise ParallelError(
                f"the residual streams begin at a tensor that is placed as {placement}: it has to be sharded over "
                "batch or sequence, or replicated; write output_layouts=Replicate() or Shard(1) for what makes it"
            )
        if isinstance(placement, Shard) and placement.dim == axis:
            raise channels_sharded()
        if isinstance(placement, Shard) and x.shape[placement.dim] % size:
            raise uneven(list(x.to_local().shape), list(x.shape), str(size))


def uneven(here: list[int], whole: list[int], size: str) -> ParallelError:
    """The error for a part that is no whole fraction of the sequence."""
    return ParallelError(
        f"the residual streams begin at a tensor of shape {here} in this process, and {whole} in all: each process of "
        f"a group of {size} has to have an equal part of the sequence. Pad the sequence to a multiple of the size"
    )


def channels_sharded() -> ParallelError:
    """The error for channels that lie on several processes."""
    return ParallelError(
        "the residual streams are sharded over their channels, and a coefficient is computed from all channels of a "
        "token: shard them over batch or sequence (output_layouts=Shard(0) or Shard(1)), or replicate them"
    )
