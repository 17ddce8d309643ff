"""What the kernels of hyper-connections read and write, in elements of one residual stream (units of C per token).

The formulas are those of docs/kernels.md. Each element is counted once: what a cache cannot hold and is read twice is
part of `SLOWDOWN`, the time that a step takes over that of its bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from mhc_compile.kernels.formulas.connections import find
from mhc_compile.passes.plan.steps import StepKind


@dataclass(frozen=True)
class Traffic:
    """Elements read and written, forward and backward, in units of C per token."""

    forward: float
    backward: float

    @property
    def total(self) -> float:
        """Both."""
        return self.forward + self.backward

    def times(self, slowdown: Traffic) -> Traffic:
        """Each way by its own factor."""
        return Traffic(self.forward * slowdown.forward, self.backward * slowdown.backward)


PLAIN_ADD = Traffic(3, 3)
"""A residual add as a kernel of its own: two reads and a write, each way."""

FUSED_ADD = Traffic(2, 1)
"""What goes away with an add that a compiler joins with the norm behind it: that norm still reads its input."""


def boundary(n: int) -> Traffic:
    """The write of a site with coefficients and read of the next."""
    return Traffic(2 * n + 2, 3 * n + 3)


def entry_boundary(n: int) -> Traffic:
    """A boundary whose streams are all the same tensor."""
    return Traffic(n + 3, n + 5)


def one_kernel_per_formula(n: int) -> Traffic:
    """A site without fusion; the backward is taken as 1.5 times the forward, the ratio of a boundary."""
    return Traffic(8 * n + 2, 1.5 * (8 * n + 2))


def papers_kernels(n: int) -> Traffic:
    """A site with the kernels of the mHC paper (arXiv 2512.24880); the backward is taken as 1.5 times the forward."""
    return Traffic(4 * n + 2, 1.5 * (4 * n + 2))


def step_traffic(kind: StepKind, n: int, *, entry: bool = False) -> Traffic:
    """One step of a plan; `entry` says that its streams are one tensor so far.

    Where streams are not used by one step alone, their gradients are added up: 3 n, counted with the gate.
    """
    if kind is StepKind.BOUNDARY:
        return entry_boundary(n) if entry else boundary(n)
    return {
        StepKind.ENTRY: Traffic(2, 3),
        StepKind.GATE: Traffic(n + 1, 5 * n + 1),
        StepKind.WRITE: Traffic(2 * n + 1, 3 * n + 2),
        StepKind.LEAVE: Traffic(n + 2, 2 * n + 3),
        StepKind.PLAIN: one_kernel_per_formula(n),
    }[kind]


def reading(connection: str, sources: int) -> Traffic:
    """A site that reads so many sources; one alone is read as it is, and its add stays."""
    about = find(connection, sources).about
    ways = (slope * sources + rest for slope, rest in (about.forward, about.backward))
    return PLAIN_ADD if sources < 2 else Traffic(*ways)


def lifted_traffic(n: int) -> Traffic:
    """What an operator on every stream reads and writes beyond the operator on one."""
    return Traffic(2 * (n - 1), 3 * (n - 1))


def coefficient_elements(n: int, columns: int) -> float:
    """fp32 numbers per token and site: post and R (written, read, their gradient), and what is kept of them."""
    return 3 * (n * n + n) + 2 * (columns + 1)


def restoring_units(n: int, size: int) -> float:
    """Mean traffic of restoring streams in a group of so many sites: one with d before it reads n + d and writes n."""
    return sum(2 * n + d for d in range(1, size)) / size


def kept_units(n: int, size: int) -> float:
    """Elements kept for the backward by a site, if every so manyth keeps its streams: these, and each branch output."""
    return n / size + 1


BOUNDARY_H100 = Traffic(18.5, 41.1)
"""A boundary as timed at n = 4, C = 2048: 0.46 and 1.03 ms, in units of what C elements take at 80 % of 3.35 TB/s."""

_PRODUCTS = Traffic(BOUNDARY_H100.forward / boundary(4).forward, BOUNDARY_H100.backward / boundary(4).backward)
_NONE = Traffic(1, 1)

SLOWDOWN_GPU: Mapping[StepKind, Traffic] = MappingProxyType(
    {
        StepKind.ENTRY: _PRODUCTS,
        StepKind.BOUNDARY: _PRODUCTS,
        StepKind.GATE: _PRODUCTS,
        StepKind.WRITE: Traffic(1.02, 1.03),  # 0.23 and 0.36 ms
        StepKind.LEAVE: Traffic(1.07, 1.05),  # 0.16 and 0.29 ms
        StepKind.PLAIN: _NONE,
    }
)
"""Time over that of the bytes, from the times on an H100 in docs/kernels.md; entry and gate as the boundary."""

SLOWDOWN_CPU: Mapping[StepKind, Traffic] = MappingProxyType({kind: _NONE for kind in StepKind})
"""The same on a CPU, where products are counted apart; a boundary took 0.9 to 1.0 times bytes and products together."""
