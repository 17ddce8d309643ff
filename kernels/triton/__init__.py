"""The fused steps in Triton.

Knows nothing of C++, of graphs and of models.
"""
