"""What a connection computes, in plain PyTorch: the source that every kernel is held against.

Knows nothing of devices.
"""
