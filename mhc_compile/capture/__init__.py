"""From a model and inputs to one traced graph, with what the trace has read from modules and taken for constant.

Knows nothing of sites, plans and streams.
"""
