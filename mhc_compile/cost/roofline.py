"""From counted bytes and FLOPs to seconds: the slower of memory and arithmetic, kernel by kernel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mhc_compile.cost.count import Counted
from mhc_compile.cost.devices import Device
from mhc_compile.cost.figures import Figure, PlainStep, Row, Scheme
from mhc_compile.cost.mixing import SINGLE, Mixing
from mhc_compile.cost.traffic import SLOWDOWN_CPU, SLOWDOWN_GPU, Traffic

_ADAMW = (
    7  # tensors of the size of the parameters: reads parameter, gradient and two means, writes all but the gradient
)
_STATES = 4  # parameter, gradient, two means
LAUNCHES = 6  # kernels of a boundary, both ways (docs/kernels.md)

UNFUSED, PAPERS = "one kernel per formula", "the paper's kernels"
OURS, TIMED = "this project's kernels, by their bytes", "this project's kernels, as timed"


def plain_step(counted: Counted, device: Device, dtype: str) -> PlainStep:
    """A training step of the model as it is, with AdamW."""
    flop_rate, byte_rate = device.flop_rate(dtype), device.byte_rate
    kernels = sum(max(k.flops / flop_rate, k.bytes / byte_rate) + device.launch for k in counted.kernels)
    update = _ADAMW * counted.parameter_bytes
    size = counted.parameter_bytes / _itemsize(dtype)
    return PlainStep(
        Figure(size, "", "counted"),
        Figure(counted.flops, "FLOP", "matrix products, convolutions and attention, forward and backward, counted"),
        Figure(counted.bytes + update, "B", "each kernel: what it reads from outside and leaves; AdamW 7 parameters"),
        Figure(counted.kept, "B", "tensors that autograd saves, each storage once, without parameters"),
        Figure(_STATES * counted.parameter_bytes + counted.kept, "B", "4 parameters (with gradient, AdamW) + kept"),
        Figure(
            kernels + update / byte_rate, "s",
            f"sum over {len(counted.kernels)} kernels of max(FLOP / {flop_rate:.3g}, B / {byte_rate:.3g}) "
            f"+ {device.launch * 1e6:g} us, and AdamW",
        ),
    )  # fmt: skip


def _itemsize(dtype: str) -> int:
    import torch

    return int(getattr(torch, dtype).itemsize)


def row_of(mixing: Mixing, device: Device, plain: PlainStep) -> Row:
    """What one number of streams and one connection add to a plain step."""
    kept, less = mixing.kept(), mixing.kept(recompute=True)
    before = plain.memory.value + _STATES * SINGLE * mixing.plan.parameters
    schemes = tuple(_schemes(mixing, device, plain))
    restoring = mixing.restoring().total / device.byte_rate
    per_site = "per site: T C b (n {}+ 1) + 4 T (n^2 + n + columns + statistics)"
    recomputed = (
        Figure(less, "B", f"{per_site.format('/ L ')}, L = sqrt(n sites / (n + 2))"),
        Figure(before + less, "B", "the same with kept, recomputed"),
        Figure(
            schemes[-1].seconds.value + restoring, "s",
            f"step + per site T C b (mean of 2 n + d over d = 1 .. L - 1) / {device.byte_rate:.3g}",
        ),
    )  # fmt: skip
    less_kept, less_memory, longer = recomputed if mixing.restores else (None, None, None)
    return Row(
        mixing.n,
        mixing.config.effective_connection,
        Figure(mixing.plan.parameters, "", "sum over sites of the connection's parameters"),
        Figure(mixing.flops(), "FLOP", "per token and site: 6 n C columns for coefficients, 14 n C + 8 n^2 C else"),
        Figure(kept, "B", per_site.format("")),
        less_kept,
        Figure(before + kept, "B", "plain memory + 16 B for each new parameter + kept"),
        less_memory,
        longer,
        schemes,
    )


@dataclass(frozen=True)
class _Way:
    """One way to compute a connection: bytes moved, the bytes that take as long as its steps do, kernels of a step."""

    name: str
    formula: str
    moved: Traffic
    waited: Traffic
    launches: int
    products_apart: bool = True


def _schemes(mixing: Mixing, device: Device, plain: PlainStep) -> Iterator[Scheme]:
    unfused, papers, ours = mixing.unfused(), mixing.papers(), mixing.ours()
    timed = mixing.ours(SLOWDOWN_CPU if device.name == "cpu" else SLOWDOWN_GPU)
    steps = "sum over steps (docs/kernels.md): a boundary T C b (2 n + 2) forward, (3 n + 3) backward"
    for way in (
        _Way(UNFUSED, "T C b (8 n + 2) forward, 1.5 times that backward", unfused, unfused, 24),
        _Way(
            PAPERS, "T C b (4 n + 2) forward (arXiv 2512.24880), 1.5 times that backward", papers, papers, 2 * LAUNCHES
        ),
        _Way(OURS, steps, ours, ours, LAUNCHES),
        _Way(TIMED, f"{steps}, each times its slowdown", ours, timed, LAUNCHES, device.name == "cpu"),
    ):
        yield _scheme(way, mixing, device, plain)


def _scheme(way: _Way, mixing: Mixing, device: Device, plain: PlainStep) -> Scheme:
    saved, update = mixing.replaced().total, _ADAMW * SINGLE * mixing.plan.parameters
    moving = (way.waited.total + update - saved) / device.byte_rate
    rate = device.product_rate(mixing.columns)
    products = mixing.products() / rate if way.products_apart else 0.0
    extra = moving + products + mixing.launches(way.launches) * device.launch
    total = plain.seconds.value + extra
    apart = f" + products / {rate:.3g}" if way.products_apart else ""
    starts = f" + {way.launches} launches of {device.launch * 1e6:g} us a step"
    return Scheme(
        way.name,
        Figure(way.moved.total + update - saved, "B", f"{way.formula}; + coefficients, phi; - 3 T C b of each add"),
        Figure(total, "s", f"plain + B / {device.byte_rate:.3g}{apart}{starts}"),
        Figure(100 * extra / plain.seconds.value, "%", "(seconds - plain seconds) / plain seconds"),
    )
