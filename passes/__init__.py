"""Graph in, plan or graph out: detection of residual connections and their rewrite into streams.

Knows nothing of how a graph was traced, of terminals, and of what kernels are made of.
"""
