"""The fused steps as operators of PyTorch, and the seam to the graph rewrite.

Knows nothing of how a compiler lowers them.
"""
