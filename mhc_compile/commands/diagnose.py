"""`mhc-compile diagnose`: a target with a checkpoint, run once and looked at."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from typing import Any

import torch

from mhc_compile.commands.console import new_console
from mhc_compile.commands.target import options_of, target
from mhc_compile.diagnostics.data import Diagnosis
from mhc_compile.diagnostics.diagnose import diagnose
from mhc_compile.diagnostics.plots import check_matplotlib, write_plots
from mhc_compile.report.diagnosis import render_diagnosis
from mhc_compile.report.parts import progress_bar
from mhc_compile.restored import Restored, find_file, restored
from mhc_compile.targets.files import file_of, importable


def run(arguments: argparse.Namespace) -> None:
    """Transform the model of a target, load the checkpoint, run it, draw and print.

    Raises:
        MissingPackageError: drawings are asked for, and matplotlib is not installed.
        MissingCheckpointError: there is no such checkpoint.
        MhcError: as for `restored` and `diagnose`.
    """
    options = options_of(arguments)
    if arguments.plot:
        check_matplotlib()
    if arguments.checkpoint:
        find_file(arguments.checkpoint)
    torch.manual_seed(arguments.seed)  # of the weights without a checkpoint, and of inputs
    with target(arguments, {}, meta=False, doing="starting") as (built, inputs):
        pass  # what follows has a progress bar of its own
    made, found = _diagnosed(arguments, built, inputs, options)
    if arguments.json:
        print(found.to_json())
    else:
        console = new_console(arguments.width)
        render_diagnosis(found, console, target=arguments.target, note=made.note, show_all=arguments.all)


def _diagnosed(
    arguments: argparse.Namespace, built: Any, inputs: Mapping[str, Any], options: Mapping[str, Any]
) -> tuple[Restored, Diagnosis]:
    with (
        progress_bar(new_console(None, stderr=True)) as say,
        redirect_stdout(sys.stderr),
        importable(file_of(arguments.target), first=False),
    ):
        say("transforming")
        made = restored(built.model, inputs, options, arguments.checkpoint)
        found = _looked_at(made, say)
        if arguments.plot:
            say("drawing")
            print(f"{len(write_plots(found, arguments.plot))} drawings written to {arguments.plot}")
    return made, found


def _looked_at(made: Restored, say: Callable[..., None]) -> Diagnosis:
    seen, sites = itertools.count(1), len(made.model.mhc_plan.sites)

    def on_site(key: str) -> None:
        say("looking at sites", next(seen), sites)

    return diagnose(made.model, *made.inputs.args, on_site=on_site, **made.inputs.kwargs)
