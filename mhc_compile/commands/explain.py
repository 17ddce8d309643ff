"""`mhc-compile explain`: what the backend would find in each graph."""

from __future__ import annotations

import argparse

from mhc_compile.commands.console import new_console
from mhc_compile.commands.target import options_of, target
from mhc_compile.config import Config
from mhc_compile.errors import NothingToTransformError


def run(arguments: argparse.Namespace) -> None:
    """Run the model once under Dynamo and print the report.

    Raises:
        NothingToTransformError: no graph has a site; the report is printed all the same.
    """
    options = options_of(arguments)
    with target(arguments, {}) as (built, inputs):
        from mhc_compile.dynamo.explain import explain_call  # late

        found = explain_call(built.model, inputs.get("example_inputs"), inputs.get("example_kwargs"), Config(**options))
    if arguments.json:
        print(found.to_json())
    else:
        from mhc_compile.report.terminal import render_explanation  # late

        render_explanation(found, new_console(arguments.width), target=arguments.target, show_all=arguments.all)
    if not found.sites:
        raise NothingToTransformError(f"{arguments.target} has no residual add that can be rewritten, in any graph")
