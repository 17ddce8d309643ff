"""Rewritten graphs as functions over the modules of a model, and which of them serves a call.

Knows nothing of Dynamo's backend, and nothing of who asks.
"""
