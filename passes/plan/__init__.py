"""The plan as frozen data: sites, segments, rejected adds, keys, steps, parameters.

Knows nothing of graphs.
"""

from mhc_compile.passes.plan.data import Plan, Readout, Rejection, Segment, Site
from mhc_compile.passes.plan.reasons import Reason

__all__ = ["Plan", "Readout", "Reason", "Rejection", "Segment", "Site"]
