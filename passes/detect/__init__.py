"""Which sums are residual connections, which chains they form, where their channels are.

Knows nothing of new parameters.
"""
