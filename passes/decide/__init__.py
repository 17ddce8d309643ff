"""From what was detected to the plan.

Knows nothing of how nodes are emitted.
"""
