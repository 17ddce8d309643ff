"""What a person sees of a plan: tables, drawings, advice.

Knows nothing of how anything is traced or run.
"""
