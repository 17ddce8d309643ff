"""The transformed model: how it is called from everywhere, saved, started anew, cut into stages.

Knows nothing of terminals.
"""
