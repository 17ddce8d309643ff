"""The figures of one call, as frozen data: what the table, the JSON, the plots and the records of a training read."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Parameter:
    """One new parameter.

    Attributes:
        name: as in `model.hyper_connections[key].<name>`.
        distance: root mean square of what it has moved since `transform`; None where its start was drawn at random.
        gradient: root mean square of its gradient; None without one.
        finite: whether all of its values are numbers.
    """

    name: str
    distance: float | None
    gradient: float | None
    finite: bool


@dataclass(frozen=True)
class SiteFigures:
    """What one site did in one call. Means are over tokens, in fp64; NaN where a value is not finite.

    Attributes:
        key: site key.
        segment: index of its segment.
        before: key of the site whose streams it takes, "" at the entry.
        aligned: whether its tokens are those of the site before; if not, products go on with means over tokens.
        tokens: how many tokens were looked at, evenly spaced.
        all_tokens: of how many.
        gain_forward: largest absolute row sum of R.
        gain_backward: largest absolute column sum of R.
        composite_forward: the same of rows of the product of all R from the entry of the segment up to this one.
        composite_backward: the same of columns of the product from this R to the end of the segment.
        composite_forward_peak: of `composite_forward`, the largest over tokens instead of the mean.
        composite_backward_peak: see there.
        singular_values: of R, the largest first.
        from_identity: `||R - I||`, Frobenius.
        from_uniform: `||R - 1/n||`, Frobenius.
        entropy: of the absolute values of a row of R, in units of log n: 0 for a permutation, 1 for a uniform R.
        mixing: mean of R; rows index the output stream.
        pre_mean: read weight of each stream; `pre_std` is its standard deviation over tokens.
        pre_std: see `pre_mean`.
        post_mean: write weight of each stream; `post_std` as for `pre_mean`.
        post_std: see `post_mean`.
        read_share: share of each stream in what the branch reads, `|pre_i| |X_i|` of their sum.
        stream_rms: root mean square of each stream in front of the site.
        spread: how far the streams are from their mean, relative to it: 0 where all are equal.
        similarity: mean cosine between two streams.
        trouble: what is not finite here: "streams" (in front of it), "parameters", "coefficients", "branch", or "".
        parameters: the new parameters of the site.
    """

    key: str
    segment: int
    before: str
    aligned: bool
    tokens: int
    all_tokens: int
    gain_forward: float
    gain_backward: float
    composite_forward: float
    composite_backward: float
    composite_forward_peak: float
    composite_backward_peak: float
    singular_values: tuple[float, ...]
    from_identity: float
    from_uniform: float
    entropy: float
    mixing: tuple[tuple[float, ...], ...]
    pre_mean: tuple[float, ...]
    pre_std: tuple[float, ...]
    post_mean: tuple[float, ...]
    post_std: tuple[float, ...]
    read_share: tuple[float, ...]
    stream_rms: tuple[float, ...]
    spread: float
    similarity: float
    trouble: str
    parameters: tuple[Parameter, ...]

    @property
    def moved(self) -> int:
        """How many of its parameters have left their start, or may have."""
        return sum(p.distance is None or p.distance != 0 for p in self.parameters)


@dataclass(frozen=True)
class SegmentFigures:
    """One chain of sites.

    Attributes:
        index: as in the plan; sites of it that did not run in this call are left out.
        sites: keys, in the order in which they ran.
        composite_forward: the largest of its sites, and `at_forward` the site.
        at_forward: see `composite_forward`.
        composite_backward: the largest of its sites, and `at_backward` the site.
        at_backward: see `composite_backward`.
        spread: the smallest of the sites behind the first (0 with a single site): near 0 all streams are equal.
        moved: parameters that have left their start.
        parameters: of so many.
    """

    index: int
    sites: tuple[str, ...]
    composite_forward: float
    at_forward: str
    composite_backward: float
    at_backward: str
    spread: float
    moved: int
    parameters: int


@dataclass(frozen=True)
class Alarm:
    """Something to look at.

    Attributes:
        kind: "non-finite", "gain", "collapse" or "dead".
        site: key of the site where it shows first.
        sentence: what happened, with the site and the numbers.
    """

    kind: str
    site: str
    sentence: str


@dataclass(frozen=True)
class Diagnosis:
    """What the hyper-connections of a model did in one call. `str()` is a plain text report.

    Attributes:
        connection: the connection, as in `Config`.
        n: number of streams.
        sites: in the order in which they ran.
        segments: in the order of the plan.
        alarms: what to look at, the gravest first.
        at_rest: no call was observed: coefficients are those of streams that are zero, which biases alone decide.
    """

    connection: str
    n: int
    sites: tuple[SiteFigures, ...]
    segments: tuple[SegmentFigures, ...]
    alarms: tuple[Alarm, ...]
    at_rest: bool = False

    def site(self, key: str) -> SiteFigures:
        """The figures of the site called `key`; KeyError if it did not run."""
        return {s.key: s for s in self.sites}[key]

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers; what is not finite is None, as JSON has no word for it."""
        plain: dict[str, Any] = _without_nan({"schema_version": SCHEMA_VERSION, **asdict(self)})
        return plain

    def to_json(self, indent: int | None = 2) -> str:
        """The figures as JSON; docs/cli.md describes the fields."""
        return json.dumps(self.to_dict(), indent=indent)

    def status(self) -> tuple[str, ...]:
        """One line per segment."""
        return tuple(_status(segment, self.at_rest) for segment in self.segments)

    def __str__(self) -> str:
        head = f"{len(self.sites)} sites in {len(self.segments)} segments (n={self.n}, {self.connection})"
        rows = [
            f"  {s.key}  gain {s.gain_forward:.3g} / {s.gain_backward:.3g}, composite {s.composite_forward:.3g} / "
            f"{s.composite_backward:.3g}, spread {s.spread:.2g}{f', not finite: {s.trouble}' if s.trouble else ''}"
            for s in self.sites
        ]
        return "\n".join([head, *self.status(), *rows, *(f"{a.kind}: {a.sentence}" for a in self.alarms)])


def _status(segment: SegmentFigures, at_rest: bool) -> str:
    streams = "at rest" if at_rest else f"streams differ by {percent(segment.spread)}"
    return (
        f"segment {segment.index}: {len(segment.sites)} sites, composite gain {segment.composite_forward:.3g} forward, "
        f"{segment.composite_backward:.3g} backward, {streams}, "
        f"{segment.moved} of {segment.parameters} parameters moved"
    )


def percent(value: float) -> str:
    """`12 %`, `0.03 %`."""
    return f"{100 * value:.2g} %" if abs(value) < 1 else f"{100 * value:.0f} %"


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
