"""Measurements; every number in the README names the module here that prints it."""
