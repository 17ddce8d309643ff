"""What figures add up to: one summary per segment, and alarms that name the site where something shows first."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mhc_compile.diagnostics.data import Alarm, SegmentFigures, SiteFigures, percent
from mhc_compile.errors import InvalidOptionError


@dataclass(frozen=True)
class Bounds:
    """When there is an alarm.

    Attributes:
        gain: a composite gain above this. The mHC paper has up to 1.6 for mHC, and 3,000 for HC.
        spread: streams that differ by less than this share of their mean, although parameters have moved.

    Raises:
        InvalidOptionError: a bound is not positive.
    """

    gain: float = 10.0
    spread: float = 1e-4

    def __post_init__(self) -> None:
        for name in ("gain", "spread"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise InvalidOptionError(f"{name}={value!r}: write a positive number, as in Bounds({name}=2.0)")


def segment_figures(sites: Sequence[SiteFigures]) -> tuple[SegmentFigures, ...]:
    """One summary for each segment of these sites."""
    by_index: dict[int, list[SiteFigures]] = {}
    for site in sites:
        by_index.setdefault(site.segment, []).append(site)
    return tuple(_segment(index, by_index[index]) for index in sorted(by_index))


def _segment(index: int, sites: Sequence[SiteFigures]) -> SegmentFigures:
    forward = max(sites, key=lambda s: _or_infinite(s.composite_forward))
    backward = max(sites, key=lambda s: _or_infinite(s.composite_backward))
    return SegmentFigures(
        index,
        tuple(s.key for s in sites),
        forward.composite_forward,
        forward.key,
        backward.composite_backward,
        backward.key,
        min((s.spread for s in sites if s.before), default=0.0),
        sum(s.moved for s in sites),
        sum(len(s.parameters) for s in sites),
    )


def _or_infinite(value: float) -> float:
    return math.inf if math.isnan(value) else value


def find_alarms(sites: Sequence[SiteFigures], bounds: Bounds) -> tuple[Alarm, ...]:
    """The alarms of one call, the gravest first; of each kind and segment one, at the site where it shows first."""
    return tuple(a for find in (_non_finite, _gains, _collapse, _dead) for a in find(sites, bounds))


def _non_finite(sites: Sequence[SiteFigures], bounds: Bounds) -> Iterator[Alarm]:
    for site in sites:
        gradients = [p.name for p in site.parameters if p.gradient is not None and not math.isfinite(p.gradient)]
        if site.trouble:
            yield Alarm("non-finite", site.key, f"{site.key} is the first site with a value that is not finite: "
                        f"{_WHERE[site.trouble]}")  # fmt: skip
            return
        if gradients:
            yield Alarm("non-finite", site.key, f"the gradient of {', '.join(gradients)} of {site.key} is not finite")
            return


_WHERE = {
    "streams": "the streams in front of it",
    "parameters": "its parameters",
    "coefficients": "its coefficients, computed from finite streams and parameters",
    "branch": "the output of its branch",
}


def _gains(sites: Sequence[SiteFigures], bounds: Bounds) -> Iterator[Alarm]:
    for way, depth in (("forward", "from the entry to here"), ("backward", "from the end back to here")):
        for first in _first_of_segments([s for s in sites if getattr(s, f"composite_{way}") > bounds.gain]):
            gain = getattr(first, f"composite_{way}")
            yield Alarm("gain", first.key, f"the composite gain {way} is {gain:.3g} at {first.key} ({depth}), above "
                        f"{bounds.gain:.3g}")  # fmt: skip


def _collapse(sites: Sequence[SiteFigures], bounds: Bounds) -> Iterator[Alarm]:
    """Untrained segments may have equal streams: those with something nonlinear between sites start so."""
    trained = {s.segment for s in sites if s.moved}
    flat = [
        s for s in sites if s.before and s.segment in trained and len(s.stream_rms) > 1 and s.spread < bounds.spread
    ]
    for first in _first_of_segments(flat):
        yield Alarm("collapse", first.key, f"the streams in front of {first.key} differ by {percent(first.spread)} "
                    f"only: R has nothing to mix")  # fmt: skip


def _dead(sites: Sequence[SiteFigures], bounds: Bounds) -> Iterator[Alarm]:
    """Where other sites have moved, one that has not moved at all, and has a gradient of exactly zero if any."""
    if not any(p.distance for s in sites for p in s.parameters):
        return
    still = [s for s in sites if s.parameters and all(p.distance == 0 and not p.gradient for p in s.parameters)]
    if still:
        more = f", and {len(still) - 1} more" if len(still) > 1 else ""
        yield Alarm("dead", still[0].key, f"no parameter of {still[0].key}{more} has moved, while others have")


def _first_of_segments(sites: Sequence[SiteFigures]) -> list[SiteFigures]:
    return list({site.segment: site for site in reversed(sites)}.values())[::-1]
