"""`mhc-compile report`: everything that a page shows, put together from a built model."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from mhc_compile.commands.estimate import cost_options
from mhc_compile.commands.target import options_of, target
from mhc_compile.config import Config
from mhc_compile.errors import CaptureError, NothingToTransformError
from mhc_compile.page.diagnosis import read_diagnosis
from mhc_compile.page.page import Page, check_output, write_page

_SIZES = (2, 4, 8)


def run(arguments: argparse.Namespace) -> None:
    """Write the page and say where; what cannot be written or estimated is refused before a model is built.

    Raises:
        InvalidOptionError: see `check_output` and `cost_options`.
        NothingToTransformError: see `write_report`.
    """
    options = options_of(arguments)
    check_output(arguments.output)
    cost_options(arguments)
    with target(arguments, {}, doing="tracing, counting, rewriting a copy") as (built, inputs):
        written = write_report(arguments, built, options, inputs)
    print(json.dumps(written) if arguments.json else f"report written to {arguments.output}")


def write_report(
    arguments: argparse.Namespace, built: Any, options: dict[str, Any], inputs: dict[str, Any]
) -> dict[str, Any]:
    """Write the page of a model.

    Args:
        arguments: of the command.
        built: the target, with its model.
        options: of the rewrite.
        inputs: example inputs as keyword arguments of `mhc_compile.plan`.

    Returns:
        What is on it, in numbers: path, size in bytes, sites, adds left alone, sections that are missing.

    Raises:
        InvalidOptionError: the file of diagnostics is none, or about another model.
        NothingToTransformError: there is no site; the page with the reasons is written all the same.
    """
    import mhc_compile  # late

    plan = mhc_compile.plan(built.model, **options, **inputs)
    page = Page(arguments.target, replace(plan, notes=(*built.notes, *plan.notes)))
    if arguments.diagnostics:
        keys = {site.key for site in plan.sites}
        page = replace(page, diagnostics=read_diagnosis(arguments.diagnostics, keys))
    if plan.sites:
        page = _with_code(_with_cost(page, arguments, built.model, options, inputs), built.model, options, inputs)
    write_page(page, arguments.output)
    if not plan.sites:
        raise NothingToTransformError(
            f"{arguments.target} has no residual add that can be rewritten, out of {plan.float_adds} traced: "
            f"see the reasons in {arguments.output}"
        )
    adds = sum(len(r.adds) for r in plan.rejected)
    size = Path(arguments.output).stat().st_size
    return {"path": arguments.output, "bytes": size, "sites": len(plan.sites), "left_alone": adds,
            "missing": list(page.remarks)}  # fmt: skip


def _with_cost(page: Page, arguments: Any, model: Any, options: dict[str, Any], inputs: dict[str, Any]) -> Page:
    """With an estimate for the number of streams that is asked for and the usual ones, where one can be made."""
    import mhc_compile  # late

    numbers = sorted({options["n"], *_SIZES})
    found = {**options, "n": numbers, "connection": [options["connection"]], **cost_options(arguments), **inputs}
    try:
        return replace(page, estimate=mhc_compile.estimate(model, **found))
    except CaptureError as error:
        return replace(page, remarks=(*page.remarks, f"There is no estimate: {error}"))


def _with_code(page: Page, model: Any, options: dict[str, Any], inputs: dict[str, Any]) -> Page:
    from mhc_compile.report.rewrites import watch_rewrites  # late

    try:
        return replace(page, rewrites=watch_rewrites(model, Config(**options), **inputs))
    except CaptureError as error:
        return replace(page, remarks=(*page.remarks, f"There is no code to show: {error}"))
