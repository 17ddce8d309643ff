"""Whether a transformed model computes what it should: the model at the start, the formulas of the plan ever after.

It runs models, graphs and the formulas of plans. Knows nothing of fused steps, Dynamo and terminals.
"""
