"""`mhc-compile estimate`: what a training step would cost."""

from __future__ import annotations

import argparse
from typing import Any

from mhc_compile.commands.console import new_console
from mhc_compile.commands.target import check_width, target
from mhc_compile.config import Config, make_config
from mhc_compile.cost.devices import check_device
from mhc_compile.errors import InvalidOptionError

_OPTIONS = ("init", "reduce", "include", "exclude", "nested", "min_sites")


def run(arguments: argparse.Namespace) -> None:
    """Count one training step and print the estimates."""
    check_width(arguments)
    doing = "tracing, and counting one training step"
    with target(arguments, estimate_options(arguments), doing=doing) as (built, options):
        import mhc_compile  # late

        found = mhc_compile.estimate(built.model, **options)
    if arguments.json:
        print(found.to_json())
        return
    from mhc_compile.report.estimate_table import render_estimate  # late

    render_estimate(found, new_console(arguments.width), target=arguments.target)


def estimate_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Options of `mhc_compile.estimate`, checked before a large model is built.

    Raises:
        InvalidOptionError: a device, a number or a connection is not known.
    """
    options = {name: getattr(arguments, name) for name in _OPTIONS}
    numbers, connections = _numbers(arguments.n), [name.strip() for name in arguments.connection.split(",")]
    for name in connections:
        make_config(Config.n, {"connection": name})  # a name that is wrong is an error, a pair that is not left out
    return {**options, "n": numbers, "connection": connections, **cost_options(arguments)}


def cost_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Those on device and size of a step.

    Raises:
        InvalidOptionError: the device is not known, or the number of tokens is not one.
    """
    if arguments.tokens is not None and arguments.tokens < 1:
        raise InvalidOptionError(f"--tokens {arguments.tokens} is not at least 1: write for example --tokens 16384")
    dtype = None
    if arguments.dtype:
        import torch

        dtype = getattr(torch, arguments.dtype)
    return {"device": check_device(arguments.device), "tokens": arguments.tokens, "dtype": dtype}


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InvalidOptionError(f"--n {text} is no list of numbers: write for example --n 2,4,8") from error
