"""How an operator on one tensor is applied to all streams.

Knows nothing of sites.
"""
