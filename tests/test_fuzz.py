"""Property test: whatever residual network is drawn, the passes find its sites and keep its function."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import nn

from tests.fuzz import branches, checks, residuals, run, steps
from tests.fuzz.checks import FuzzError, check_traced, check_transformed
from tests.fuzz.families import Family
from tests.fuzz.generator import networks
from tests.fuzz.network import build
from tests.fuzz.spec import Collect, Exchange, Long, Network, Op, Recall, Res, UNet, count, expected_sites, settle

CASES, DYNAMO_CASES, STREAMS = 40, 3, 4
MORE_CASES, MORE_DYNAMO_CASES = 500, 40  # and `make fuzz` draws 10,000; every kind of layer is also in EVERY_KIND
SETTINGS = {"deadline": None, "database": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors are tiny: threads only get in each other's way."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def with_few_streams(net: Network) -> Network:
    """One, or as elsewhere: each number needs C++ kernels of its own, which take longer than the networks."""
    return replace(net, n=1 if net.n == 1 else STREAMS)


@settings(max_examples=CASES, **SETTINGS)
@given(networks().map(with_few_streams))
def test_drawn_networks_are_rewritten_right(net):
    run.check(net)


@settings(max_examples=DYNAMO_CASES, **SETTINGS)
@given(networks().map(with_few_streams).filter(lambda net: "recurrent" not in repr(net)))
def test_drawn_networks_are_transformed_right(net):
    """Through Dynamo, which does not trace recurrent layers."""
    check_transformed(net)


@pytest.mark.exhaustive
@settings(max_examples=MORE_CASES, **SETTINGS)
@given(networks())
def test_more_networks_are_rewritten_right(net):
    run.check(net)


@pytest.mark.exhaustive
@settings(max_examples=MORE_DYNAMO_CASES, **SETTINGS)
@given(networks().filter(lambda net: "recurrent" not in repr(net)))
def test_more_networks_are_transformed_right(net):
    check_transformed(net)


def tokens(*body, **changes) -> Network:
    return replace(Network(images=False, channels=4, start="stem", body=body), **changes)


def images(*body, **changes) -> Network:
    return tokens(*body, images=True, **changes)


EVERY_KIND = [
    *(tokens(Res(kind), Res("plain")) for kind in (*residuals.BOTH, *residuals.TOKEN, residuals.WITH_POSITION)),
    *(images(Res(kind), Res("plain")) for kind in (*residuals.BOTH, *residuals.IMAGES, residuals.WITH_POSITION)),
    *(tokens(Res("pre_norm", branch), Op("independent_sum", branch)) for branch in (*branches.BOTH, *branches.TOKEN)),
    *(images(Res("pre_norm", branch), Op("independent_sum", branch)) for branch in (*branches.BOTH, *branches.IMAGES)),
    *(tokens(Res("plain"), Op(kind), Res("plain")) for kind in (*steps.PASS, *steps.MAYBE, *steps.END)),
    *(images(Res("plain"), Op(kind), Res("plain")) for kind in (*steps.PASS, *steps.MAYBE, *steps.END)),
]


def name(net: Network) -> str:
    layout = "images" if net.images else "tokens"
    return "-".join((layout, *(getattr(e, field) for e in net.body for field in ("kind", "branch"))))


@pytest.mark.parametrize("net", EVERY_KIND, ids=name)
def test_every_kind_alone(net):
    """Nothing is left to chance: each shape and look-alike once, trained too."""
    check_traced(net, learn=True)


BLOCK = Res("pre_norm")
BY_HAND = {
    "inner chain is longer": (tokens(Long((BLOCK, BLOCK, BLOCK)), BLOCK), 4),
    "outer chain is as long": (tokens(Long((BLOCK, BLOCK)), BLOCK), 2),
    "long skips one after the other": (tokens(*[Long((BLOCK,) * 4, head=True)] * 3), 12),
    "more long skips than blocks in each": (tokens(*[Long((BLOCK,) * 2, head=True)] * 3), 3),
    "a layer used three times": (tokens(Res("post_norm", uses=3)), 3),
    "hidden states": (tokens(BLOCK, Collect(), BLOCK, Collect()), 2),
    "a product of two stream values": (tokens(BLOCK, Collect(), BLOCK, Recall(), BLOCK), 3),
    "a square of the stream": (tokens(BLOCK, BLOCK, Collect(), Recall(), BLOCK), 3),
    "a sum of two segments": (tokens(Long((BLOCK,)), Long((BLOCK,) * 5, head=True, tail=False), Op("norm"), BLOCK), 7),
    "u-net": (images(BLOCK, UNet((BLOCK, BLOCK)), BLOCK), 4),
    "two towers": (tokens(BLOCK, towers=((BLOCK,), (BLOCK, BLOCK)), join="sum"), 4),
    "cross-attention": (tokens(Res("plain", "cross_attention"), encoder=(BLOCK, BLOCK)), 3),
    "a write into the input": (tokens(BLOCK, start="written"), 1),
    "a long skip behind a norm, around a chain that begins with one": (
        tokens(Res("post_norm"), Long((Op("norm"), Res("plain")), tail=False)),
        2,
    ),
    "two towers that read each other": (images(BLOCK, Exchange(2), BLOCK), 6),
    "the first value in front of every layer": (tokens(*[BLOCK] * 4, injects=True), 4),
    "a residual of its own inside a branch that is added to nothing": (tokens(Op("lora", "inner_residual")), 1),
}


@pytest.mark.parametrize("case", BY_HAND)
def test_the_number_of_sites_counted_by_hand(case):
    net, expected = BY_HAND[case]
    assert expected_sites(net) == expected
    check_traced(net, learn=True)


def test_a_write_into_a_kept_skip_is_settled_away():
    assert settle((Res("onto_skip"),), owned=True) == (Res("onto_skip"),)
    assert settle((Collect(), Res("onto_skip")), owned=True) == (Collect(), Res("onto_fresh"))
    assert settle((Op("dropout"), Res("onto_skip")), owned=False) == (Op("dropout"), Res("onto_fresh"))


def test_a_long_skip_open_to_debate_is_settled_away():
    """Two sites before: with them the inner chain has four of four, without them two of three."""
    chain = (BLOCK, BLOCK, Long((BLOCK, BLOCK)))
    assert settle(chain, owned=True) == (BLOCK,) * 4
    certain = (BLOCK, BLOCK, Long((BLOCK, BLOCK), head=True))
    assert settle(certain, owned=True) == certain


class Doubling(nn.Module):
    """A rewrite that changes the function."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *inputs):
        return tuple(2 * y for y in self.inner(*inputs))


def test_a_changed_function_is_noticed():
    model, inputs = build(tokens(BLOCK))
    checks.check_preserved(model, model, inputs)
    with pytest.raises(FuzzError, match="is off by"):
        checks.check_preserved(model, Doubling(model), inputs)


def test_a_wrong_count_and_an_undecided_add_are_noticed():
    import mhc_compile

    model, inputs = build(tokens(BLOCK, BLOCK))
    plan = mhc_compile.plan(model, example_inputs=inputs)
    checks.check_plan(tokens(BLOCK, BLOCK), plan, plan.float_adds)
    with pytest.raises(FuzzError, match="found 2 sites, there are 1"):
        checks.check_plan(tokens(BLOCK), plan, plan.float_adds)
    with pytest.raises(FuzzError, match="there are 9"):
        checks.check_plan(tokens(BLOCK, BLOCK), plan, 9)


@pytest.mark.exhaustive  # of the tool behind `make fuzz`, not of the package; shrinking takes long
def test_a_failing_batch_gives_the_smallest_network_to_run_again(monkeypatch):
    def two_blocks_fail(net, learn):
        if len(net.body) > 1:
            raise FuzzError("two blocks")

    monkeypatch.setattr(run, "check_traced", two_blocks_fail)
    failure = run.run_batch(seed=0, cases=50)
    assert failure is not None and len(failure.network.body) == 2
    text = run.report(failure)
    assert "two blocks" in text and f"check({failure.network!r})" in text
    from tests.fuzz import spec

    assert eval(repr(failure.network), vars(spec)) == failure.network


@pytest.mark.parametrize("is_image", [False, True])
def test_layers_fit_their_layout(is_image):
    family = Family(is_image, 4)
    x = torch.randn(family.shape)
    for layer in (family.mix(), family.norm(), lambda v: operator.mul(v, family.vector())):
        assert layer(x).shape == x.shape


def test_a_long_skip_around_what_an_encoder_goes_on_in_is_open_to_debate():
    """Its inside belongs to the chain of the encoder then, and both may be converted."""
    residual = Res("plain", "mlp")
    long = Long((Recall(), residual), head=True, tail=False)
    assert settle((long,), owned=True) == (long,)
    assert settle((long,), owned=True, after=1) == (Recall(), residual)


def test_a_sum_of_two_states_of_one_stream_loses_against_what_lies_between():
    residual = Res("plain", "mlp")
    around = (residual, residual, residual)
    assert count((Long((residual, residual), tail=False), *around)) == 5
    assert count((Long((residual, residual)), *around)) == 4
