"""Bytes that Triton kernels move, counted in the interpreter: any kernel of any project.

*Issued* bytes are all that a kernel asks for, *unique* bytes its distinct addresses, the least that memory must move. A
tensor is recognised by the address of its storage, and put into a group by its number of elements.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from triton.runtime import interpreter

Addresses = NDArray[np.uint64]


@dataclass(frozen=True)
class Access:
    """One load or store of a block: the addresses of its elements, and their bytes."""

    addresses: Addresses
    itemsize: int


@dataclass
class Launch:
    """What one kernel launch touched."""

    kernel: str
    accesses: list[Access] = field(default_factory=list)

    def issued(self) -> dict[int, Addresses]:
        """Bytes of an element -> every address asked for."""
        sizes = {access.itemsize for access in self.accesses}
        return {s: np.concatenate([a.addresses for a in self.accesses if a.itemsize == s]) for s in sizes}


@dataclass
class Traffic:
    """Launches in order, and the tensors that they may touch: start, end and group, kept alive by `tensors`."""

    groups: Mapping[int, str]
    launches: list[Launch] = field(default_factory=list)
    tensors: dict[int, torch.Tensor] = field(default_factory=dict)

    def issued(self) -> dict[str, int]:
        """Group -> bytes asked for."""
        return self._bytes(launch.issued() for launch in self.launches)

    def unique(self) -> dict[str, int]:
        """Group -> bytes at distinct addresses, over all launches."""
        sizes = {size for launch in self.launches for size in launch.issued()}
        empty = np.empty(0, np.uint64)
        every = {s: np.concatenate([launch.issued().get(s, empty) for launch in self.launches]) for s in sizes}
        return self._bytes([{size: np.unique(addresses) for size, addresses in every.items()}])

    def unique_per_kernel(self) -> dict[str, int]:
        """Group -> bytes at distinct addresses of each launch, added up."""
        issued = (launch.issued() for launch in self.launches)
        return self._bytes({size: np.unique(addresses) for size, addresses in each.items()} for each in issued)

    def _bytes(self, parts: Iterator[dict[int, Addresses]] | list[dict[int, Addresses]]) -> dict[str, int]:
        total: dict[str, int] = {}
        for part in parts:
            for itemsize, addresses in part.items():
                for group, count in self._count(addresses).items():
                    total[group] = total.get(group, 0) + count * itemsize
        return total

    def _count(self, addresses: Addresses) -> dict[str, int]:
        """Group -> number of addresses in its tensors; "other" for what no tensor holds."""
        counts: dict[str, int] = {"other": len(addresses)}
        ordered = np.sort(addresses)
        for start, tensor in self.tensors.items():
            group = self.groups.get(tensor.untyped_storage().nbytes() // tensor.itemsize, "other")
            low, high = np.searchsorted(ordered, [start, start + tensor.untyped_storage().nbytes()])
            counts["other"] -= int(high - low)
            counts[group] = counts.get(group, 0) + int(high - low)
        return counts


class _Tensors(TorchDispatchMode):
    """Notes every tensor that operators take or make."""

    def __init__(self, found: dict[int, torch.Tensor]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.note((args, kwargs, result))
        return result

    def note(self, tree: Any) -> None:
        for leaf in tree_leaves(tree):
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage().nbytes():
                self.found.setdefault(leaf.untyped_storage().data_ptr(), leaf)


@contextmanager
def counted(groups: Mapping[int, str], tensors: Any) -> Iterator[Traffic]:
    """Count what kernels do inside; `groups` maps numbers of elements to names, `tensors` exist already."""
    traffic = Traffic(groups)
    mode = _Tensors(traffic.tensors)
    mode.note(tensors)
    builder = interpreter.InterpreterBuilder
    with (
        mode,
        patch.object(interpreter.GridExecutor, "__call__", _launching(traffic)),
        patch.object(builder, "create_masked_load", _watching(traffic, builder.create_masked_load, 1)),
        patch.object(builder, "create_masked_store", _watching(traffic, builder.create_masked_store, 2)),
        patch.object(builder, "create_atomic_rmw", _watching(traffic, builder.create_atomic_rmw, 3, pointer=1)),
    ):
        yield traffic


def _launching(traffic: Traffic) -> Callable[..., Any]:
    original = interpreter.GridExecutor.__call__

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        traffic.launches.append(Launch(self.fn.__name__))
        return original(self, *args, **kwargs)

    return call


def _watching(traffic: Traffic, original: Callable[..., Any], mask: int, pointer: int = 0) -> Callable[..., Any]:
    """`original` of the builder, with its pointers and mask noted; their positions among the arguments are given."""

    def call(self: Any, *args: Any) -> Any:
        pointers, chosen = args[pointer], args[mask]
        itemsize = max(1, pointers.get_element_ty().primitive_bitwidth // 8)
        shape = np.broadcast_shapes(pointers.data.shape, chosen.data.shape)
        where = np.broadcast_to(chosen.data.astype(bool), shape)
        addresses = np.broadcast_to(pointers.data, shape)[where].astype(np.uint64)
        traffic.launches[-1].accesses.append(Access(addresses, itemsize))
        return original(self, *args)

    return call
