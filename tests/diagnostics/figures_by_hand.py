"""Figures written by hand: what alarms, tables, plots and writers are tested on."""

from __future__ import annotations

from typing import Any

from mhc_compile.diagnostics.alarms import Bounds, find_alarms, segment_figures
from mhc_compile.diagnostics.data import Diagnosis, Parameter, SiteFigures

EYE = ((1.0, 0.0), (0.0, 1.0))


def moved(distance: float | None, gradient: float | None = 1.0, name: str = "bias") -> Parameter:
    return Parameter(name, distance, gradient, True)


def site(key: str, before: str = "", **changes: Any) -> SiteFigures:
    """A site of two streams that R leaves as they are."""
    gains = ("gain_forward", "gain_backward", "composite_forward", "composite_backward",
             "composite_forward_peak", "composite_backward_peak")  # fmt: skip
    known = dict(
        key=key, segment=0, before=before, aligned=True, tokens=4, all_tokens=8, singular_values=(1.0, 1.0),
        from_identity=0.0, from_uniform=1.0, entropy=0.0, mixing=EYE, pre_mean=(0.5, 0.5), pre_std=(0.0, 0.0),
        post_mean=(1.2, 0.8), post_std=(0.0, 0.0), read_share=(0.5, 0.5), stream_rms=(1.0, 2.0), spread=0.1,
        similarity=0.9, trouble="", parameters=(moved(0.01),), **dict.fromkeys(gains, 1.0),
    )  # fmt: skip
    return SiteFigures(**{**known, **changes})


def diagnosis(*sites: SiteFigures, bounds: Bounds | None = None, connection: str = "mhc") -> Diagnosis:
    return Diagnosis(connection, 2, sites, segment_figures(sites), find_alarms(sites, bounds or Bounds()))
