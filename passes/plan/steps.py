"""Which kernels a plan will run: one `Step` per launch of the forward pass, with the reason where sites stay apart."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class StepKind(Enum):
    """What is computed in one go. The value is the sentence shown to a user."""

    ENTRY = "coefficients and read of a first site, from one tensor that stands for all streams"
    BOUNDARY = "write of one site with coefficients and read of the next"
    LEAVE = "last write with the readout: the streams are never stored"
    GATE = "coefficients and read on their own"
    WRITE = "write on its own"
    PLAIN = "coefficients, read and write in plain PyTorch"


class Unfused(Enum):
    """Why a step is not part of its neighbour. The value is the sentence shown to a user."""

    CONNECTION = "this connection has no fused steps"
    MOVED_AXES = "a view or permutation of the stream lies between read and write"
    SCATTERED = "the branch reads the stream behind a lifted operation"
    LIFTED = "an operation on every stream lies between the two sites"
    CHECKPOINT = "the two sites are recomputed in different checkpointed blocks"
    AXES = "the channels of the two sites lie on different axes"
    GRADIENTS = "gradients are switched on or off between the two sites"
    SHARED = "another site reads the same streams and is fused with their write"
    NEIGHBOUR = "the neighbouring site is in plain PyTorch"
    BORDER = "a border between two stages of a pipeline lies between the two sites"
    LEARNED = "a learned readout needs the streams themselves"

    @classmethod
    def _missing_(cls, value: object) -> Unfused | None:
        """Pickles hold sentences, and this one was another in version 0.1."""
        return cls.CONNECTION if value == "only connection='mhc' has kernels of its own" else None


@dataclass(frozen=True)
class Step:
    """One launch of the forward pass.

    Attributes:
        kind: what it computes.
        writes: key of the site whose write it holds, or "".
        gates: key of the site whose coefficients and read it holds, or "".
        reason: why it is on its own; None where it is as fused as can be.
        detail: what exactly, for example the operation that lies between; may be empty.
    """

    kind: StepKind
    writes: str
    gates: str
    reason: Unfused | None = None
    detail: str = ""
