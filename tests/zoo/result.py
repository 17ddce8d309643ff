"""What came of the checks of one model of the zoo, and an error in one line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


class CheckError(Exception):
    """A model of the zoo does not behave as expected; the message says how."""


@dataclass(frozen=True)
class Result:
    """The outcome for one model.

    Attributes:
        target: key of `EXPECTED`.
        expected: expected number of sites, None where any number will do.
        sites: number found, None if `transform` refused.
        errors: largest relative error by check, for example `{"eval float64": 3e-16}`.
        notes: what was left out, and why.
        failure: why the model fails, "" if it does not.
        seconds: time it took.
    """

    target: str
    expected: int | None
    sites: int | None = None
    errors: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    failure: str = ""
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.failure


def failure_of(error: Exception) -> str:
    """An error in one line; of a `CheckError` its message alone."""
    lines = str(error).strip().splitlines()
    return " ".join(lines if isinstance(error, CheckError) else [type(error).__name__, *lines[:3]])
