"""The pass behind `torch.compile`: graphs as Dynamo hands them over, and whom their parameters belong to.

Knows nothing of models that `transform` made but their base class.
"""
