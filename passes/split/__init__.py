"""One graph taken apart: along module calls, and along the stages of a pipeline.

Knows nothing of how sites are found.
"""
