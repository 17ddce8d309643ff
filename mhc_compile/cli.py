"""The command line: `mhc-compile inspect TARGET` reports what would be rewritten, and changes nothing.

`mhc-compile explain TARGET` reports the same for each graph that torch.compile makes, with the graph breaks.

Tracing, model libraries and rich are imported inside functions, so that `--help` and usage errors answer at once.
"""

from __future__ import annotations

import argparse
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, get_args

from mhc_compile.config import Config, Connection, Init, Nested, Reduce
from mhc_compile.errors import InvalidOptionError, MhcError, NothingToTransformError

if TYPE_CHECKING:
    from rich.console import Console

    from mhc_compile.passes.plan import Plan

OK = 0
USER_ERROR = 2  # what argparse exits with, too
INTERNAL_ERROR = 70  # EX_SOFTWARE of sysexits.h
INTERRUPTED = 130  # 128 + SIGINT, as shells report it

_MIN_WIDTH = 40
_PIPE_WIDTH = 10_000  # columns when nobody looks: nothing is ever folded
_OPTIONS = ("n", "connection", "init", "reduce", "include", "exclude", "nested", "min_sites")
_BEFORE_KEY = re.compile(r",(?=\s*[A-Za-z_][\w.]*\s*=)")  # a comma inside a value, as in [2,2], is left alone

_EPILOG = """\
TARGET is one of
  timm:NAME, torchvision:NAME       a model of these libraries
  hf:MODEL_TYPE                     a Hugging Face model type, from its configuration with random weights
  package.module:factory            a function (or class) that returns a module
  file.py:factory                   the same from a file

examples
  mhc-compile inspect timm:vit_base_patch16_224
  mhc-compile inspect hf:llama --config num_hidden_layers=80,hidden_size=8192 --json
  mhc-compile inspect model.py:make_model --input 2x3x224x224:float32 --graph streams.svg
  mhc-compile inspect torchvision:resnet50 --why layer1.1
  mhc-compile explain hf:llama --train

exit codes
  0 done, at least one site   2 user error, or nothing to transform   70 internal error
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; `sys.argv` by default.

    Returns:
        The exit code: 0, 2 (user error), 70 (internal error) or 130 (interrupted). See docs/cli.md.
    """
    arguments = build_parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except MhcError as error:
        return _fail("error", str(error), USER_ERROR, arguments.debug)
    except KeyboardInterrupt:
        return _fail("interrupted", "no report was finished", INTERRUPTED, arguments.debug)
    except Exception as error:
        hint = "" if arguments.debug else "\nThis is a defect: please report it with the output of --debug."
        return _fail("internal error", f"{type(error).__name__}: {error}{hint}", INTERNAL_ERROR, arguments.debug)
    return OK


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(prog="mhc-compile", description=__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=f"mhc-compile {version('mhc-compile')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    inspect = _add_command(
        commands,
        "inspect",
        "report which residual connections would be rewritten",
        "Trace a model and report which residual connections would be rewritten. Nothing is changed.",
    )
    inspect.set_defaults(run=_inspect)
    output = inspect.add_argument_group("output")
    what = output.add_mutually_exclusive_group()
    what.add_argument("--why", metavar="NODE", help="explain one node of the graph, or one site key")
    _add_output_options(output, what)
    output.add_argument("--graph", metavar="FILE.svg", help="draw the segments")
    explain = _add_command(
        commands,
        "explain",
        "report the same for each graph of torch.compile, and the graph breaks",
        "Run a model once under Dynamo and report what the backend would find in each graph. Nothing is changed.",
    )
    explain.set_defaults(run=_explain, graph=None, why=None)
    output = explain.add_argument_group("output")
    _add_output_options(output, output)
    return parser


def _add_command(commands: Any, name: str, summary: str, description: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("target", metavar="TARGET", help="the model, see below")
    _add_transform_options(command.add_argument_group("what is planned"))
    _add_model_options(command.add_argument_group("the model"))
    return command


def _add_transform_options(group: argparse._ArgumentGroup) -> None:
    default = Config()
    group.add_argument("--n", type=int, default=default.n, help="number of streams (default: %(default)s)")
    for name, choices in (("connection", Connection), ("init", Init), ("reduce", Reduce), ("nested", Nested)):
        group.add_argument(
            f"--{name}", choices=get_args(choices), default=getattr(default, name), help="default: %(default)s"
        )
    group.add_argument("--include", nargs="+", action="extend", default=[], metavar="GLOB", help="only these site keys")
    group.add_argument("--exclude", nargs="+", action="extend", default=[], metavar="GLOB", help="not these site keys")
    group.add_argument(
        "--min-sites", type=int, default=default.min_sites, metavar="K", help="leave shorter segments alone"
    )


def _add_model_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--input",
        nargs="+",
        action="extend",
        default=[],
        metavar="SPEC",
        help="example inputs, [name=]SHAPE[:dtype], for example 2x3x224x224:float32 or input_ids=2x16:int64",
    )
    group.add_argument(
        "--config", action="append", default=[], metavar="A=1,B=2", help="options of the model's constructor"
    )
    group.add_argument("--train", action="store_true", help="trace the model in training mode")
    group.add_argument("--no-meta", action="store_true", help="build the model with real memory")


def _add_output_options(group: Any, what: Any) -> None:
    what.add_argument("--json", action="store_true", help="print JSON and nothing else")
    group.add_argument("--all", action="store_true", help="one row for each site and each add")
    group.add_argument("--width", type=int, metavar="COLUMNS", help="width of the report (default: the terminal's)")
    group.add_argument("--debug", action="store_true", help="show the traceback of an error")


def _inspect(arguments: argparse.Namespace) -> None:
    options = {name: getattr(arguments, name) for name in _OPTIONS}
    _check_early(arguments, options)
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
        from mhc_compile.graph_svg import check_path

        check_path(arguments.graph)


def _explain(arguments: argparse.Namespace) -> None:
    options = {name: getattr(arguments, name) for name in _OPTIONS}
    _check_early(arguments, options)
    with _target(arguments, {}) as (target, inputs):
        from mhc_compile.explain import explain_call

        found = explain_call(
            target.model, inputs.get("example_inputs"), inputs.get("example_kwargs"), Config(**options)
        )
    if arguments.json:
        print(found.to_json())
    else:
        from mhc_compile.report import render_explanation

        render_explanation(found, _console(arguments.width), target=arguments.target, show_all=arguments.all)
    if not found.sites:
        raise NothingToTransformError(f"{arguments.target} has no residual add that can be rewritten, in any graph")


@contextmanager
def _target(arguments: argparse.Namespace, options: dict[str, Any]) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The built model, and options with its inputs. What its code prints goes to stderr: stdout holds the report."""
    with _progress() as say, redirect_stdout(sys.stderr):
        say("loading torch")
        from mhc_compile.targets import parse_options, resolve

        say(f"building {arguments.target}")
        items = [item for text in arguments.config for item in _BEFORE_KEY.split(text)]
        target = resolve(
            arguments.target, meta=not arguments.no_meta, config=parse_options(items), inputs=arguments.input
        )
        target.model.train(arguments.train)
        say("tracing and looking for residual connections")
        args, kwargs = target.example_inputs, target.example_kwargs
        if args or kwargs:  # else those the model declares
            options = {**options, "example_inputs": args, "example_kwargs": kwargs}
        yield target, options


def _print_plan(plan: Plan, arguments: argparse.Namespace) -> None:
    if arguments.json:
        print(plan.to_json())
        return
    console = _console(arguments.width)
    if arguments.why is None:
        from mhc_compile.report import render

        render(plan, console, target=arguments.target, show_all=arguments.all)
        return
    from mhc_compile.report import render_roles
    from mhc_compile.roles import roles_of

    render_roles(roles_of(plan, arguments.why), console)


def _draw(plan: Plan, path: str) -> None:
    from mhc_compile.graph_svg import write_svg

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
