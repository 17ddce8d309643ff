"""Tensors in, tensors out: what one hyper-connection computes. Knows nothing of graphs or models."""

from mhc_compile.kernels.inductor import hook as hook  # Inductor is told of the kernels when it is in use
