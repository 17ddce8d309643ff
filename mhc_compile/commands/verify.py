"""`mhc-compile verify`: the model and what it is transformed into, run and compared."""

from __future__ import annotations

import argparse

from mhc_compile.commands.console import new_console
from mhc_compile.commands.target import options_of, target


def run(arguments: argparse.Namespace) -> None:
    """Verify a model that is built with values, and print the claims.

    Raises:
        VerificationError: one does not hold; all are printed all the same.
    """
    options = options_of(arguments)
    with target(arguments, options, meta=False, doing="transforming, and running both") as (built, model_options):
        import mhc_compile  # late
        from mhc_compile.verification.examine import raise_failures  # late

        found = mhc_compile.verify(built.model, **model_options)
    if arguments.json:
        print(found.to_json())
    else:
        from mhc_compile.report.verification import render_verification  # late

        render_verification(found, new_console(arguments.width), target=arguments.target)
    raise_failures(found)
