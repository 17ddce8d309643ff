"""The fused steps in C++.

Knows nothing of Triton, of graphs and of models.
"""
