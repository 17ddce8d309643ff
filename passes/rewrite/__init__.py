"""From the plan to the rewritten graph: streams, fused steps, what is computed again.

Knows nothing of modules.
"""
