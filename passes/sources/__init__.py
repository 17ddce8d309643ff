"""The second kind of state, beside n streams: a list of sources, and how a site reads it.

Knows nothing of streams and of how operators are lifted onto them.
"""
