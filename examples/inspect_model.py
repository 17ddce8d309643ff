"""What would be rewritten in a model, as a report and as data. Nothing is changed and no weights are loaded.

    python -m examples.inspect_model timm:vit_tiny_patch16_224
    python -m examples.inspect_model hf:llama --n 2

The report is what `mhc-compile inspect` prints; this example shows how to get at the plan behind it.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence

from rich.console import Console

import mhc_compile
from mhc_compile.report.terminal import render
from mhc_compile.targets import resolve


def main(arguments: Sequence[str] | None = None) -> None:
    """Build the model a target names on the meta device, plan, and print the plan twice: for eyes and for code."""
    options = _parse(arguments)

    # A target is a model with example inputs. With a model of your own, skip this step.
    target = resolve(options.target)

    # The dry run. It takes the same options as `transform` and returns frozen data.
    plan = mhc_compile.plan(
        target.model,
        n=options.n,
        connection=options.connection,
        example_inputs=target.example_inputs,
        example_kwargs=target.example_kwargs,
    )
    width = None if sys.stdout.isatty() else 200  # in a file or a pipe there is no reason to fold the columns
    render(plan, Console(width=width), target=options.target)

    print("\nThe same in code:")
    print(f"  plan.sites       {len(plan.sites)} residual adds; the first keys are {[s.key for s in plan.sites[:2]]}")
    reasons = Counter(rejection.reason.name for rejection in plan.rejected)
    print(f"  plan.rejected    {len(plan.rejected)} other adds: {dict(reasons)}")
    print(f"  plan.segments    {[len(segment.sites) for segment in plan.segments]} sites each")
    print(f"  plan.to_json()   {len(plan.to_json()):,} characters")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", nargs="?", default="timm:vit_tiny_patch16_224", help="default: %(default)s")
    parser.add_argument("--n", type=int, default=4, help="streams (default: %(default)s)")
    parser.add_argument("--connection", default="mhc", help="default: %(default)s")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
