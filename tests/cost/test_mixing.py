from __future__ import annotations

from dataclasses import replace

import pytest

from mhc_compile.config import Config
from mhc_compile.cost.mixing import Mixing
from mhc_compile.cost.traffic import boundary, entry_boundary, step_traffic
from mhc_compile.errors import CaptureError
from mhc_compile.passes.plan.steps import StepKind
from tests import hand_plans as hand

SHAPE = (2, 100, 192)
ELEMENTS, TOKENS, BF16 = 2 * 100 * 192, 200, 2


def mixing(sites: int = 4, *, scale: float = 1, lifts: tuple[str, ...] = (), **options: object) -> Mixing:
    chain = [replace(site, shape=SHAPE, parameters=10) for site in hand.transformer(sites // 2)]
    segment = hand.segment(0, chain, lifts=lifts)
    config = Config(**{"n": 4, **options})  # type: ignore[arg-type]
    return Mixing(hand.plan([chain], segments=(segment,), connection=config.connection), config, scale, BF16)


def test_bytes_of_the_steps_of_a_plan() -> None:
    found = mixing()
    steps = [
        step_traffic(StepKind.ENTRY, 4),
        entry_boundary(4),
        boundary(4),
        boundary(4),
        step_traffic(StepKind.LEAVE, 4),
    ]
    coefficients = TOKENS * 4 * (3 * 20 + 2 * 25) * 4  # per site: post and R three times, z and 1 / rms twice, fp32
    assert found.ours().total == sum(s.total for s in steps) * ELEMENTS * BF16 + coefficients + 3 * 4 * 40


def test_a_larger_batch_moves_more_but_for_phi() -> None:
    once, twice = mixing(), mixing(scale=2)
    phi = 3 * 4 * 40
    assert twice.ours().total - phi == 2 * (once.ours().total - phi)
    assert twice.flops() == 2 * once.flops() and twice.tokens(twice.plan.sites[0]) == 2 * TOKENS


def test_operators_between_sites_are_applied_to_every_stream() -> None:
    more = mixing(lifts=("relu",)).ours().total - mixing().ours().total
    assert more == (2 * 3 + 3 * 3) * ELEMENTS * BF16


def test_products_are_three_times_those_of_the_forward() -> None:
    streams = 1 + 3 * 4  # one tensor stands for all of the first site
    assert mixing().products() == TOKENS * 3 * 2 * (streams * 192) * 24
    assert mixing(connection="identity").products() == TOKENS * 3 * 2 * (streams * 192) * 8
    assert mixing(connection="hc").products() == mixing().products()  # columns of one stream each, zero for the others
    assert mixing(connection="hc-static").products() == 0
    gated = 4 * 192 * (320 + 320 + 4)
    assert mixing(connection="gated:rank=320").products() == 4 * TOKENS * 3 * 2 * gated


def test_only_what_iterates_is_charged_for_it() -> None:
    columns = {name: mixing(connection=name) for name in ("mhc", "mhc-lite", "kronecker")}
    flops = {name: found.mixing_flops(found.plan.sites[0]) for name, found in columns.items()}
    assert flops["mhc"] > flops["mhc-lite"] == flops["kronecker"]


def test_recomputation_keeps_the_streams_of_one_site_of_a_group() -> None:
    found = mixing(24)
    size = Config(n=4, recompute="auto").group_size(24)
    coefficients = 24 * TOKENS * 4 * 45
    assert found.kept() == 24 * 5 * ELEMENTS * BF16 + coefficients
    assert found.kept(recompute=True) == pytest.approx(24 * (4 / size + 1) * ELEMENTS * BF16 + coefficients)
    assert found.restoring().backward > 0


def test_an_open_size_is_an_error_that_names_it() -> None:
    found = mixing()
    chain = [replace(site, shape=("s0", 100, 192)) for site in found.plan.sites]
    with pytest.raises(CaptureError, match=r"size s0 of site blocks\.0\.attn"):
        replace(found, plan=hand.plan([chain])).flops()
