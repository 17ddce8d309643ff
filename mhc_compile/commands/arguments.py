"""What the command line takes: commands, options, their help."""

from __future__ import annotations

import argparse
from importlib.metadata import version
from typing import Any, get_args

from mhc_compile.config import Config, Init, Nested, Reduce

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
  mhc-compile verify timm:resnet18
  mhc-compile connections --n 4 --channels 2048
  mhc-compile diagnose model.py:make_model --checkpoint last.pt --plot figures
  mhc-compile inspect timm:vit_base_patch16_224 --rewrites blocks.3.mlp
  mhc-compile estimate hf:llama --device h100 --tokens 16384 --n 2,4 --connection mhc,identity
  mhc-compile report timm:vit_base_patch16_224 -o report.html

exit codes
  0 done, at least one site   2 user error, nothing to transform, or not verified   70 internal error
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
    explain.set_defaults(command="explain")
    output = explain.add_argument_group("output")
    _add_output_options(output, output)
    verify = _add_command(
        commands,
        "verify",
        "transform a model, run both, and say how far they are from each other",
        "Transform a model on the CPU and run copies of both, in both modes: at the start the result computes what the "
        "model does, and what plain PyTorch formulas of the plan do once its new parameters have moved.",
    )
    verify.set_defaults(command="verify")
    output = verify.add_argument_group("output")
    _add_output_options(output, output, every=False)
    _add_connections(commands)
    _add_diagnose(commands)
    _add_estimate(commands)
    _add_report(commands)
    return parser


def _add_connections(commands: Any) -> None:
    about = "list the connections: formula, parameters, memory traffic, whose they are, which models ship them"
    command: argparse.ArgumentParser = commands.add_parser("connections", help=about, description=about)
    command.set_defaults(command="connections")
    command.add_argument("--n", type=int, default=Config().n, help="count for this many streams (default: %(default)s)")
    command.add_argument("--channels", type=int, default=1024, metavar="C", help="and channels (default: %(default)s)")
    _add_output_options(command, command, every=False)


def _add_diagnose(commands: Any) -> None:
    diagnose = _add_command(
        commands,
        "diagnose",
        "report what the hyper-connections of a checkpoint do with their streams",
        "Transform a model, load a checkpoint, run it once and report gains, mixing and streams over depth.",
    )
    diagnose.set_defaults(command="diagnose")
    output = diagnose.add_argument_group("output")
    _add_output_options(output, output)
    output.add_argument("--plot", metavar="DIR", help="draw gain, R and streams over depth as PNG and SVG")
    trained = diagnose.add_argument_group("what is looked at")
    trained.add_argument(
        "--checkpoint", metavar="F", help="weights; it says which connection and n they were made with"
    )
    trained.add_argument("--seed", type=int, default=0, help="of the weights without one, and of inputs (default: 0)")


def _add_estimate(commands: Any) -> None:
    estimate = _add_command(
        commands,
        "estimate",
        "estimate what a training step would cost: parameters, FLOPs, bytes, memory, time",
        "Count a training step on tensors without values, and estimate what hyper-connections add. Nothing runs.",
        several=True,
    )
    estimate.set_defaults(command="estimate")
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
    report.set_defaults(command="report")
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
    about = "see mhc-compile connections (default: %(default)s)"
    if several:
        group.add_argument("--n", default="2,4,8", metavar="N,..", help="numbers of streams (default: %(default)s)")
        group.add_argument("--connection", default=default.connection, metavar="NAME,..", help=about)
    else:
        group.add_argument("--n", type=int, default=default.n, help="number of streams (default: %(default)s)")
        group.add_argument("--connection", default=default.connection, metavar="NAME", help=about)
    for name, choices in (("init", Init), ("reduce", Reduce), ("nested", Nested)):
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
