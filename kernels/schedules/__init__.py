"""Fused steps as data: buffers and launches.

Knows nothing of devices and compilers.
"""
