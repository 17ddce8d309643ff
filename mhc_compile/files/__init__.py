"""What lies on the disk: checkpoints, and folders of `save_pretrained`, written whole and read without running code.

Knows nothing of graphs.
"""
