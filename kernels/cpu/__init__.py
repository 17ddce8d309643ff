"""The fused steps in C++."""
