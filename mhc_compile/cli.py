"""The command line: `mhc-compile inspect TARGET` reports what would be rewritten, and changes nothing.

`mhc-compile explain TARGET` reports the same for each graph that torch.compile makes, with the graph breaks,
`mhc-compile estimate TARGET` what a training step would cost, `mhc-compile report TARGET -o FILE.html` writes a page.

Tracing, model libraries and rich are imported inside functions, so that `--help` and usage errors answer at once.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mhc_compile.arguments import build_parser
from mhc_compile.config import Config
from mhc_compile.errors import InvalidOptionError, MhcError, MissingInputsError, NothingToTransformError

if TYPE_CHECKING:
    from rich.console import Console

    from mhc_compile.passes.plan.data import Plan

OK = 0
USER_ERROR = 2  # what argparse exits with, too
INTERNAL_ERROR = 70  # EX_SOFTWARE of sysexits.h
INTERRUPTED = 130  # 128 + SIGINT, as shells report it

_MIN_WIDTH = 40
_PIPE_WIDTH = 10_000  # columns when nobody looks: nothing is ever folded
_OPTIONS = ("n", "connection", "init", "reduce", "include", "exclude", "nested", "min_sites")
_DOING = {"estimate": "tracing, and counting one training step", "report": "tracing, counting, rewriting a copy"}
_BEFORE_KEY = re.compile(r",(?=\s*[A-Za-z_][\w.]*\s*=)")  # a comma inside a value, as in [2,2], is left alone


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; `sys.argv` by default.

    Returns:
        The exit code: 0, 2 (user error), 70 (internal error) or 130 (interrupted). See docs/cli.md.
    """
    arguments = build_parser().parse_args(argv)
    try:
        _COMMANDS[arguments.command](arguments)
    except MhcError as error:
        return _fail("error", str(error), USER_ERROR, arguments.debug)
    except KeyboardInterrupt:
        return _fail("interrupted", "no report was finished", INTERRUPTED, arguments.debug)
    except Exception as error:
        hint = "" if arguments.debug else "\nThis is a defect: please report it with the output of --debug."
        return _fail("internal error", f"{type(error).__name__}: {error}{hint}", INTERNAL_ERROR, arguments.debug)
    return OK


def _inspect(arguments: argparse.Namespace) -> None:
    options = {name: getattr(arguments, name) for name in _OPTIONS}
    _check_early(arguments, options)
    if arguments.rewrites is not None:
        return _rewrites(arguments, options)
    with _target(arguments, options) as (target, model_options):
        import mhc_compile

        plan = mhc_compile.plan(target.model, **model_options)
        plan = replace(plan, notes=(*target.notes, *plan.notes))
    _print_plan(plan, arguments)
    if arguments.graph:
        _draw(plan, arguments.graph)
    if not plan.sites and arguments.why is None:
        raise NothingToTransformError(
            f"{arguments.target} has no residual add that can be rewritten, out of {plan.float_adds} traced: "
            "see the reasons in the report; --all lists every add, and --why NODE explains one"
        )


def _check_early(arguments: argparse.Namespace, options: dict[str, Any]) -> None:
    """Report a wrong option before a large model is built."""
    Config(**options)
    if arguments.width is not None and arguments.width < _MIN_WIDTH:
        raise InvalidOptionError(f"--width {arguments.width} is too narrow: write at least {_MIN_WIDTH}")
    if arguments.graph:
        from mhc_compile.report.graph_svg import check_path

        check_path(arguments.graph)


def _explain(arguments: argparse.Namespace) -> None:
    options = {name: getattr(arguments, name) for name in _OPTIONS}
    _check_early(arguments, options)
    with _target(arguments, {}) as (target, inputs):
        from mhc_compile.dynamo.explain import explain_call

        found = explain_call(
            target.model, inputs.get("example_inputs"), inputs.get("example_kwargs"), Config(**options)
        )
    if arguments.json:
        print(found.to_json())
    else:
        from mhc_compile.report.terminal import render_explanation

        render_explanation(found, _console(arguments.width), target=arguments.target, show_all=arguments.all)
    if not found.sites:
        raise NothingToTransformError(f"{arguments.target} has no residual add that can be rewritten, in any graph")


def _rewrites(arguments: argparse.Namespace, options: dict[str, Any]) -> None:
    with _target(arguments, {}) as (target, inputs):
        from mhc_compile.report.rewrites import watch_rewrites
        from mhc_compile.report.rewrites_table import render_rewrites

        found = watch_rewrites(target.model, Config(**options), arguments.rewrites, **inputs)
    if arguments.json:
        print(json.dumps(found.to_dict(), indent=2))
    else:
        render_rewrites(found, _console(arguments.width), target=arguments.target)


def _estimate(arguments: argparse.Namespace) -> None:
    from mhc_compile.commands.estimate import estimate_options

    options = estimate_options(arguments)
    with _target(arguments, options) as (target, options):
        import mhc_compile

        found = mhc_compile.estimate(target.model, **options)
    if arguments.json:
        print(found.to_json())
        return
    from mhc_compile.report.estimate_table import render_estimate

    render_estimate(found, _console(arguments.width), target=arguments.target)


def _report(arguments: argparse.Namespace) -> None:
    options = {name: getattr(arguments, name) for name in _OPTIONS}
    _check_early(arguments, options)
    from mhc_compile.commands.report import check_report, write_report

    check_report(arguments)
    with _target(arguments, {}) as (target, inputs):
        written = write_report(arguments, target, options, inputs)
    print(json.dumps(written) if arguments.json else f"report written to {arguments.output}")


_COMMANDS = {
    "inspect": _inspect,
    "explain": _explain,
    "estimate": _estimate,
    "report": _report,
}


@contextmanager
def _target(arguments: argparse.Namespace, options: dict[str, Any]) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The built model, and options with its inputs. What its code prints goes to stderr: stdout holds the report."""
    with _progress() as say, redirect_stdout(sys.stderr):
        say("loading torch")
        from mhc_compile.targets import parse_options, resolve
        from mhc_compile.targets.files import file_of, importable

        say(f"building {arguments.target}")
        items = [item for text in arguments.config for item in _BEFORE_KEY.split(text)]
        target = resolve(
            arguments.target, meta=not arguments.no_meta, config=parse_options(items), inputs=arguments.input
        )
        target.model.train(arguments.train)
        say(_DOING.get(arguments.command, "tracing and looking for residual connections"))
        args, kwargs = target.example_inputs, target.example_kwargs
        if args or kwargs:  # else those the model declares
            options = {**options, "example_inputs": args, "example_kwargs": kwargs}
        try:
            with importable(file_of(arguments.target), first=False):  # some code imports its neighbours when it runs
                yield target, options
        except MissingInputsError as error:
            raise MissingInputsError(
                f"{arguments.target} declares no example inputs and cannot be traced without: write them as in --input "
                "2x3x224x224:float32, or with the name of an argument, as in --input input_ids=2x16:int64; "
                f"forward takes {inspect.signature(target.model.forward)}"
            ) from error


def _print_plan(plan: Plan, arguments: argparse.Namespace) -> None:
    if arguments.json:
        print(plan.to_json())
        return
    console = _console(arguments.width)
    if arguments.why is None:
        from mhc_compile.report.terminal import render

        render(plan, console, target=arguments.target, show_all=arguments.all)
        return
    from mhc_compile.report.roles import roles_of
    from mhc_compile.report.terminal import render_roles

    render_roles(roles_of(plan, arguments.why), console)


def _draw(plan: Plan, path: str) -> None:
    from mhc_compile.report.graph_svg import write_svg

    write_svg(plan, path)
    print(f"drawing written to {path}", file=sys.stderr)


def _console(width: int | None, stderr: bool = False) -> Console:
    """A console as wide as the terminal; where there is none, so wide that no name is ever cut or folded."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")  # a terminal that has no box characters still gets the report
    return Console(stderr=stderr, width=width or (None if stream.isatty() else _PIPE_WIDTH), highlight=False)


@contextmanager
def _progress() -> Iterator[Any]:
    """A function that shows what is going on, on stderr and only if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda text: None
        return
    console = _console(None, stderr=True)
    with console.status("starting") as status:
        yield lambda text: status.update(f"[dim]{text.replace('[', chr(92) + '[')}")


def _fail(title: str, message: str, code: int, debug: bool) -> int:
    from rich.text import Text

    if debug:
        traceback.print_exc()
    console = _console(None, stderr=True)
    console.print(Text(f"{title}: ", style="bold red").append(message, style="not bold default"))
    return code


if __name__ == "__main__":
    sys.exit(main())
