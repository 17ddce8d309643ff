"""The fused steps inside the programs that Inductor generates.

Knows nothing of how a graph was rewritten, and of models.
"""
