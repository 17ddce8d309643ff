"""Tensors in, tensors out: what one hyper-connection computes. Knows nothing of graphs or models."""

from mhc_compile.kernels import inductor_hook as inductor_hook  # Inductor is told of the kernels when it is in use
