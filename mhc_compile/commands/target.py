"""What commands have in common: options of the rewrite, and the model that a target names, built with its inputs."""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

from mhc_compile.commands.console import progress
from mhc_compile.config import Config
from mhc_compile.errors import InvalidOptionError, MissingInputsError

_MIN_WIDTH = 40
_OPTIONS = ("n", "connection", "init", "reduce", "include", "exclude", "nested", "min_sites")
_BEFORE_KEY = re.compile(r",(?=\s*[A-Za-z_][\w.]*\s*=)")  # a comma inside a value, as in [2,2], is left alone


def options_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of the rewrite; a wrong one is reported before a large model is built.

    Raises:
        InvalidOptionError: an option is out of its domain, or the width too small.
    """
    options = {name: getattr(arguments, name) for name in _OPTIONS}
    Config(**options)
    check_width(arguments)
    return options


def check_width(arguments: argparse.Namespace) -> None:
    """Refuse a report in which no word has room.

    Raises:
        InvalidOptionError: it is too narrow.
    """
    if arguments.width is not None and arguments.width < _MIN_WIDTH:
        raise InvalidOptionError(f"--width {arguments.width} is too narrow: write at least {_MIN_WIDTH}")


@contextmanager
def target(
    arguments: argparse.Namespace,
    options: dict[str, Any],
    *,
    meta: bool = True,
    doing: str = "tracing and looking for residual connections",
) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The built model, and options with its inputs. What its code prints goes to stderr: stdout holds the report.

    Args:
        arguments: of the command.
        options: to be handed on.
        meta: whether it may be built without memory for its weights.
        doing: what is done with it, for who waits.
    """
    with progress() as say, redirect_stdout(sys.stderr):
        say("loading torch")
        from mhc_compile.targets import parse_options, resolve  # late
        from mhc_compile.targets.files import file_of, importable  # late

        say(f"building {arguments.target}")
        items = [item for text in arguments.config for item in _BEFORE_KEY.split(text)]
        built = resolve(
            arguments.target,
            meta=meta and not arguments.no_meta,
            config=parse_options(items),
            inputs=arguments.input,
        )
        if told := tuple(_told_of_record(Path(arguments.target))):
            built = replace(built, notes=(*told, *built.notes))
        built.model.train(arguments.train)
        say(doing)
        args, kwargs = built.example_inputs, built.example_kwargs
        if args or kwargs:  # else those the model declares
            options = {**options, "example_inputs": args, "example_kwargs": kwargs}
        try:
            with importable(file_of(arguments.target), first=False):  # some code imports its neighbours when it runs
                yield built, options
        except MissingInputsError as error:
            raise MissingInputsError(
                f"{arguments.target} declares no example inputs and cannot be traced without: write them as in --input "
                "2x3x224x224:float32, or with the name of an argument, as in --input input_ids=2x16:int64; "
                f"forward takes {inspect.signature(built.model.forward)}"
            ) from error


def _told_of_record(folder: Path) -> Iterator[str]:
    """Which hyper-connections a folder holds: what is reported is what the given options would do."""
    from mhc_compile.files.record import RECORD, Record  # late

    if (folder / RECORD).is_file():
        known = Record.read(folder / RECORD).config
        yield (
            f"the folder holds a model with hyper-connections ({known.connection}, n = {known.n}, reduce "
            f"{known.reduce}), and what is shown is made anew, by the options given here: write --connection "
            f"{known.connection} --n {known.n} --reduce {known.reduce} to see those"
        )
