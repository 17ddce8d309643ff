"""What a person sees of a plan: tables, drawings, advice.

Knows nothing of transformed models and of how they are called.
"""
