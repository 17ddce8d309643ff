"""A second tree of modules over the parameters of a model, the child with the new parameters, and what they keep.

Knows nothing of traces, plans in the making and compilers.
"""
