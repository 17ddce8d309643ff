"""Measurements; every number in docs/measured.md names the module here that prints it."""
