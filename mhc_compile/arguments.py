"""What the command line takes: commands, options, their help."""

from __future__ import annotations

import argparse
from importlib.metadata import version
from typing import Any, get_args

from mhc_compile.config import Config, Connection, Init, Nested, Reduce

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
  mhc-compile inspect timm:vit_base_patch16_224 --rewrites blocks.3.mlp
  mhc-compile estimate hf:llama --device h100 --tokens 16384 --n 2,4 --connection mhc,identity
  mhc-compile report timm:vit_base_patch16_224 -o report.html

exit codes
  0 done, at least one site   2 user error, or nothing to transform   70 internal error
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="mhc-compile", description="Report what mhc_compile would rewrite in a model, without changing anything."
    )
    parser.add_argument("--version", action="version", version=f"mhc-compile {version('mhc-compile')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    inspect = _add_command(
        commands,
        "inspect",
        "report which residual connections would be rewritten",
        "Trace a model and report which residual connections would be rewritten. Nothing is changed.",
    )
    inspect.set_defaults(command="inspect")
    output = inspect.add_argument_group("output")
    what = output.add_mutually_exclusive_group()
    what.add_argument("--why", metavar="NODE", help="explain one node of the graph, or one site key")
    output.add_argument(
        "--rewrites", nargs="?", const="", metavar="SITE", help="show pass by pass what is done, and around one site"
    )
    _add_output_options(output, what)
    output.add_argument("--graph", metavar="FILE.svg", help="draw the segments")
    explain = _add_command(
        commands,
        "explain",
        "report the same for each graph of torch.compile, and the graph breaks",
        "Run a model once under Dynamo and report what the backend would find in each graph. Nothing is changed.",
    )
    explain.set_defaults(command="explain", graph=None, why=None)
    output = explain.add_argument_group("output")
    _add_output_options(output, output)
    _add_estimate(commands)
    _add_report(commands)
    return parser


def _add_estimate(commands: Any) -> None:
    estimate = _add_command(
        commands,
        "estimate",
        "estimate what a training step would cost: parameters, FLOPs, bytes, memory, time",
        "Count a training step on tensors without values, and estimate what hyper-connections add. Nothing runs.",
        several=True,
    )
    estimate.set_defaults(command="estimate", graph=None)
    _add_cost_options(estimate.add_argument_group("what is estimated"))
    output = estimate.add_argument_group("output")
    _add_output_options(output, output, every=False)


def _add_report(commands: Any) -> None:
    report = _add_command(
        commands,
        "report",
        "write one page: what would be rewritten, what is left alone and why, what it would cost",
        "Write a page that needs no network: segments and sites, what is left alone and why, cost, code. "
        "Nothing is changed.",
    )
    report.set_defaults(command="report", graph=None)
    _add_cost_options(report.add_argument_group("what is estimated"))
    output = report.add_argument_group("output")
    output.add_argument(
        "--diagnostics", metavar="FILE.json", help="show what diagnose --json has printed of a trained checkpoint"
    )
    output.add_argument("-o", "--output", metavar="FILE.html", required=True, help="where to write the page")
    _add_output_options(output, output, every=False)


def _add_cost_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--device", default="h100", metavar="NAME", help="h100, a100, b200, mi300x or cpu (default: %(default)s)"
    )
    group.add_argument("--tokens", type=int, metavar="N", help="tokens of a step (default: those of the inputs)")
    group.add_argument(
        "--dtype",
        choices=("bfloat16", "float16", "float32", "float64"),
        help="of parameters and activations (default: bfloat16 on a GPU, the model's own on a CPU)",
    )


def _add_command(
    commands: Any, name: str, summary: str, description: str, *, several: bool = False
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("target", metavar="TARGET", help="the model, see below")
    _add_transform_options(command.add_argument_group("what is planned"), several)
    _add_model_options(command.add_argument_group("the model"))
    return command


def _add_transform_options(group: argparse._ArgumentGroup, several: bool) -> None:
    default = Config()
    kinds: list[tuple[str, Any]] = [("init", Init), ("reduce", Reduce), ("nested", Nested)]
    if several:
        group.add_argument("--n", default="2,4,8", metavar="N,..", help="numbers of streams (default: %(default)s)")
        group.add_argument("--connection", default="mhc", metavar="NAME,..", help="default: %(default)s")
    else:
        group.add_argument("--n", type=int, default=default.n, help="number of streams (default: %(default)s)")
        kinds.insert(0, ("connection", Connection))
    for name, choices in kinds:
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


def _add_output_options(group: Any, what: Any, *, every: bool = True) -> None:
    what.add_argument("--json", action="store_true", help="print JSON and nothing else")
    if every:
        group.add_argument("--all", action="store_true", help="one row for each site and each add")
    group.add_argument("--width", type=int, metavar="COLUMNS", help="width of the report (default: the terminal's)")
    group.add_argument("--debug", action="store_true", help="show the traceback of an error")
