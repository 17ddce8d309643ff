"""Pages written by hand: what the tests of the page look at, without a model."""

from __future__ import annotations

from typing import Any

from mhc_compile.cost.devices import GPUS
from mhc_compile.cost.figures import Estimate, Figure, PlainStep, Row, Scheme
from mhc_compile.page.diagnosis import panels_of
from mhc_compile.page.page import Page
from mhc_compile.passes.history import Line, PassRecord
from mhc_compile.passes.plan.reasons import Reason
from mhc_compile.report.rewrites import Rewrites
from tests import hand_plans as hand


def estimate() -> Estimate:
    plain = PlainStep(
        *(Figure(10.0**9, unit, "counted") for unit in ("", "FLOP", "B", "B", "B")), Figure(0.062, "s", "sum")
    )
    return Estimate(GPUS["h100"], "bfloat16", 16_384, 24, plain, tuple(_row(n) for n in (2, 4, 8)), ("a note",))


def _row(n: int) -> Row:
    schemes = tuple(
        Scheme(
            name, Figure(n * 1e9, "B", f"{name} bytes"), Figure(0.07, "s", "plain + B"), Figure(share * n, "%", "ratio")
        )
        for name, share in (
            ("one kernel per formula", 20.0),
            ("the paper's kernels", 12.0),
            ("this project's kernels, as timed", 8.0),
        )
    )
    bytes_ = Figure(n * 1e9, "B", "T C b")
    return Row(
        n,
        "mhc",
        Figure(n * 1e5, "", "sum"),
        Figure(n * 1e10, "FLOP", "per token"),
        bytes_,
        bytes_,
        bytes_,
        bytes_,
        schemes[-1].seconds,
        schemes,
    )


def rewrites() -> Rewrites:
    plan = hand.plan([hand.transformer()])
    site = plan.sites[2]
    before = {"a": Line("a = linear(x)", ""), site.add: Line(f"{site.add} = add(a, b)", "")}
    after = {"a": Line("a = linear(u)", ""), "write": Line("write = boundary(X, a)", site.key)}
    records = (PassRecord("normalise", 0.001, before, before), PassRecord("rewrite", 0.002, before, after))
    return Rewrites(0.5, records, plan, site)


def diagnosis() -> dict[str, Any]:
    """What `diagnose --json` prints of a model whose gain grows."""
    sites = [
        {"key": site.key, "gain_forward": 1.1, "composite_forward": 1.1**i, "composite_backward": 1.1 ** (24 - i)}
        for i, site in enumerate(hand.transformer())
    ]
    return {"sites": sites, "alarms": [{"kind": "gain", "site": "blocks.3.mlp", "sentence": "the gain is above 2"}]}


def small_page() -> Page:
    """Two towers of one transformer each, adds left alone for two reasons, cost, code, diagnostics."""
    rejected = (
        hand.rejection("mask"),
        hand.rejection("scale", Reason.SCALAR, detail=""),
        hand.rejection("far", Reason.NESTED, detail="x" * 60),
    )
    plan = hand.plan([hand.transformer()], rejected, notes=("built on the CPU",))
    return Page("timm:vit_tiny <b>", plan, estimate(), rewrites(), panels_of(diagnosis()))


def large_page(sites: int) -> Page:
    """A deep model, with twice as many adds left alone."""
    rejected = tuple(hand.rejection(f"mask_{i}", module=f"blocks.{i}.attn") for i in range(2 * sites))
    return Page("hf:deep", hand.plan([hand.transformer(sites // 2)], rejected), estimate(), rewrites())
