"""Facts about a graph, and its normal form.

Knows nothing of sites.
"""
