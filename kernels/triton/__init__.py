"""The fused steps in Triton."""
