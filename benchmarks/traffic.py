"""`python -m benchmarks.traffic`: bytes that the Triton kernels of one interior site move, ours and Liger's, per token.

Counted in Triton's interpreter, on any machine. Figures are in units of C elements of the streams (C = 1 means one read
or write of a plain residual stream). Issued: every byte asked for; unique: distinct addresses, the least that memory
must move. Streams and branches, phi with its gradient, and coefficients are listed apart. What Liger does in eager
PyTorch between its kernels is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from mhc_compile.kernels.triton import launch as triton_launch
from tests.gpu.traffic import counted
from tests.kernels.step_inputs import StepInputs, step_inputs

SLACK = {"forward": 1.05, "backward": 1.10}
GROUPS = ("streams", "phi", "coefficients")


def budget(n: int, direction: str) -> dict[str, float]:
    """Most bytes of streams and branches, in units of C: `unique` and `issued` (maths.md)."""
    if direction == "forward":
        return {"unique": 1.05 * (2 * n + 2), "issued": 1.05 * (3 * n + 2)}
    return {"unique": 1.10 * (3 * n + 3), "issued": 2 * 1.10 * (3 * n + 3)}


def measure(name: str, n: int, channels: int, tokens: int, dtype: torch.dtype) -> dict[str, dict[str, Any]]:
    """Direction -> figures -> group -> units of C."""
    data = step_inputs(n, ((tokens, channels), 1), dtype=dtype)
    forward, backward = {"ours": ours, "single-pass": single_pass, "Liger": liger}[name](data, n)
    columns = n * n + 2 * n
    groups = {tokens * channels: "streams", n * tokens * channels: "streams"}
    groups |= {n * channels * columns * shares: "phi" for shares in (1, 16)}
    unit = tokens * channels * dtype.itemsize
    return {way: _figures(call, groups, data, unit) for way, call in (("forward", forward), ("backward", backward))}


def _figures(call: Callable[[], Any], groups: dict[int, str], data: StepInputs, unit: int) -> dict[str, Any]:
    with counted(groups, (data.X, data.y, data.mix, data.params)) as traffic:
        kept = call()
    found = {
        "issued": _units(traffic.issued(), unit),
        "unique": _units(traffic.unique(), unit),
        "unique, each kernel": _units(traffic.unique_per_kernel(), unit),
        "launches": [launch.kernel for launch in traffic.launches],
    }
    del kept
    return found


def _units(by_group: dict[str, int], unit: int) -> dict[str, float]:
    named = {"other": "coefficients"}
    return {named.get(group, group): size / unit for group, size in by_group.items()}


def ours(data: StepInputs, n: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Forward and backward of `mhc::boundary`."""
    tensors = (data.X, data.y, data.mix, *data.params)
    *outputs, stat = triton_launch.boundary(*tensors, n, 1)
    grads = [torch.randn_like(t) for t in outputs]
    return (
        lambda: triton_launch.boundary(*tensors, n, 1),
        lambda: triton_launch.boundary_backward(*grads, *tensors, stat, n, 1),
    )


def single_pass(data: StepInputs, n: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Forward and backward of `mhc::single_boundary`."""
    tensors = (data.X, data.y, data.mix, data.pre, *data.params)
    *outputs, stat = triton_launch.single_boundary(*tensors, n, 1)
    grads = [torch.randn_like(t) for t in outputs]
    return (
        lambda: triton_launch.single_boundary(*tensors, n, 1),
        lambda: triton_launch.single_boundary_backward(*grads, *tensors, stat, n, 1),
    )


def liger(data: StepInputs, n: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Write of a site, coefficients and read of the next, with Liger's autograd functions."""
    from liger_kernel.ops import mhc

    X = data.X.movedim(0, 1).contiguous().requires_grad_()
    post, R = data.mix[:, :n].contiguous().requires_grad_(), data.mix[:, n:].unflatten(1, (n, n)).contiguous()
    y, phi, bias = (t.detach().clone().requires_grad_() for t in (data.y, data.params[0], data.params[2]))
    alphas = [a.clone().requires_grad_() for a in data.params[1]]

    def forward() -> tuple[torch.Tensor, ...]:
        following = mhc.LigerMHCPostResFunction.apply(X, y, post, R.requires_grad_()).to(data.X.dtype)
        pre, *rest = mhc.LigerMHCCoeffsFunction.apply(
            following, phi.to(data.X.dtype), bias, *alphas, True, 20, 1e-6, 0.0, 1e-6, 2.0
        )
        return mhc.LigerMHCPreFunction.apply(following, pre), following, *rest

    results = forward()
    grads = [torch.randn_like(t) for t in results]
    return forward, lambda: torch.autograd.grad(results, (X, y, post, R, phi, bias), grads, retain_graph=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and judge; exit code 1 if a budget is missed."""
    o = _parse(arguments)
    if os.environ.get("TRITON_INTERPRET") != "1":  # read when a kernel is imported
        command = [sys.executable, "-m", "benchmarks.traffic", *(sys.argv[1:] if arguments is None else arguments)]
        return subprocess.call(command, env={**os.environ, "TRITON_INTERPRET": "1"})
    dtype = getattr(torch, o.dtype)
    found = {name: measure(name, o.n, o.channels, o.tokens, dtype) for name in ("ours", "single-pass", "Liger")}
    console = Console()
    console.print(f"One interior site, n = {o.n}, C = {o.channels}, {o.tokens} tokens, {o.dtype}; units of C per token")
    console.print(_table(found, o.n))
    if o.json:
        Path(o.json).write_text(json.dumps({"options": vars(o), "found": found}, indent=1) + "\n")
    return _judge(found["ours"], o.n, console)


def _table(found: dict[str, dict[str, Any]], n: int) -> Table:
    made = Table("", "", box=None, pad_edge=False)
    for name in (*GROUPS, "total", "budget"):
        made.add_column(name, justify="right", no_wrap=True)
    for way in SLACK:
        for name, figures in found.items():
            made.add_row(f"{name} {way}", f"{len(figures[way]['launches'])} launches", style="bold")
            for kind in ("issued", "unique", "unique, each kernel"):
                groups = figures[way][kind]
                limit = budget(n, way).get(kind)
                sizes = (f"{groups.get(group, 0):.2f}" for group in GROUPS)
                made.add_row("", kind, *sizes, f"{sum(groups.values()):.2f}", f"{limit:.2f}" if limit else "")
    return made


def _judge(figures: dict[str, Any], n: int, console: Console) -> int:
    """Forward with coefficients; backward without them, as the issue of the kernels says; phi is apart in both."""
    missed = []
    for way in SLACK:
        for kind, limit in budget(n, way).items():
            groups = figures[way][kind]
            spent = groups["streams"] + (groups.get("coefficients", 0) if way == "forward" else 0)
            missed += [f"{way} {kind} {spent:.2f} > {limit:.2f}"] if spent > limit else []
    console.print(f"budgets of ours: {'MISSED ' + ', '.join(missed) if missed else 'met'}")
    return 1 if missed else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.traffic", description=__doc__)
    parser.add_argument("--n", type=int, default=4)
    parser.add_argument("--channels", type=int, default=1024)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--json", metavar="FILE", help="write the numbers there")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
