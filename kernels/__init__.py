"""Tensors in, tensors out: what one hyper-connection computes. Knows nothing of graphs or models."""
