"""torchtitan's models on gloo processes: does each layout compute what one process does? See `__main__.py`."""
