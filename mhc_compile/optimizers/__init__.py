"""Groups of parameters for optimizers.

Knows nothing of graphs.
"""
