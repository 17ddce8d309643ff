"""Which neighbouring sites other traces of one model keep in segments of their own.

Where streams end depends on what lies between two sites, and that may differ from mode to mode: noise, an operator with
a derivative of its own, a hook. A model that is evaluated must be the one that was trained, so a segment that ends in
one trace ends in all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from mhc_compile.passes.plan.data import Plan


def joined(plan: Plan, others: Sequence[Plan]) -> list[str]:
    """The last adds of sites whose streams go on in a plan, to a site that another plan has in another segment."""
    numbers = [{key: segment.index for segment in other.segments for key in segment.sites} for other in others]
    adds = {site.key: site.add for site in plan.sites}
    return [adds[s.before] for s in plan.sites if s.before and any(_are_apart(s.before, s.key, n) for n in numbers)]


def _are_apart(before: str, key: str, number: dict[str, int]) -> bool:
    return before in number and key in number and number[before] != number[key]
