"""Folders of `save_pretrained`."""
