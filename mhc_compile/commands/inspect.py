"""`mhc-compile inspect`: what would be rewritten, and pass by pass how."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mhc_compile.commands.console import new_console
from mhc_compile.commands.target import options_of, target
from mhc_compile.config import Config
from mhc_compile.errors import NothingToTransformError

if TYPE_CHECKING:
    from mhc_compile.passes.plan.data import Plan


def run(arguments: argparse.Namespace) -> None:
    """Trace the model and print the report, or what one option asks for.

    Raises:
        NothingToTransformError: there is no site; the report is printed all the same.
    """
    options = options_of(arguments)
    if arguments.graph:
        from mhc_compile.report.graph_svg import check_path  # late

        check_path(arguments.graph)
    if arguments.rewrites is not None:
        return _rewrites(arguments, options)
    with target(arguments, options) as (built, model_options):
        import mhc_compile  # late

        plan = mhc_compile.plan(built.model, **model_options)
        plan = replace(plan, notes=(*built.notes, *plan.notes))
    _print_plan(plan, arguments)
    if arguments.graph:
        _draw(plan, arguments.graph)
    if not plan.sites and arguments.why is None:
        raise NothingToTransformError(
            f"{arguments.target} has no residual add that can be rewritten, out of {plan.float_adds} traced: "
            "see the reasons in the report; --all lists every add, and --why NODE explains one"
        )


def _rewrites(arguments: argparse.Namespace, options: dict[str, Any]) -> None:
    with target(arguments, {}) as (built, inputs):
        from mhc_compile.report.rewrites import watch_rewrites  # late
        from mhc_compile.report.rewrites_table import render_rewrites  # late

        found = watch_rewrites(built.model, Config(**options), arguments.rewrites, **inputs)
    if arguments.json:
        print(json.dumps(found.to_dict(), indent=2))
    else:
        render_rewrites(found, new_console(arguments.width), target=arguments.target)


def _print_plan(plan: Plan, arguments: argparse.Namespace) -> None:
    if arguments.json:
        print(plan.to_json())
        return
    console = new_console(arguments.width)
    if arguments.why is None:
        from mhc_compile.report.terminal import render  # late

        render(plan, console, target=arguments.target, show_all=arguments.all)
        return
    from mhc_compile.report.roles import roles_of  # late
    from mhc_compile.report.terminal import render_roles  # late

    render_roles(roles_of(plan, arguments.why), console)


def _draw(plan: Plan, path: str) -> None:
    from mhc_compile.report.graph_svg import write_svg  # late

    write_svg(plan, path)
    print(f"drawing written to {path}", file=sys.stderr)
