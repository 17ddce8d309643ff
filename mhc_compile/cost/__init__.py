"""What hyper-connections would cost: bytes, FLOPs, memory and time of a training step, counted and estimated.

Counting runs a model on fake tensors and changes nothing. Must not know: the command line, reports.
"""
