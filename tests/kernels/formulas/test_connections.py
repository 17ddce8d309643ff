from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mhc_compile.errors import InvalidOptionError
from mhc_compile.kernels.formulas import connections
from mhc_compile.kernels.formulas import initial_values as initial
from tests.kernels.site_chain import MULTI_STREAM, Chain, site_parameters, takes

EVERY = (*MULTI_STREAM, "kronecker")
CASES = [(connection, n) for connection in EVERY for n in range(1, 9) if takes(connection, n)]


def values_of(**options):
    defaults = {"position": 0, "linear": True, "init": "preserve", "dtype": torch.float32, "device": "cpu"}
    return connections.initial_values("mhc", 4, 6, **(defaults | options))


@pytest.mark.parametrize(("connection", "n"), CASES)
@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("how", ["mean", "learned"])
def test_preserving_start_is_the_plain_residual_network(connection, n, linear, how):
    torch.manual_seed(n)
    chain, x = Chain(connection, n, how, linear), torch.randn(3, 5, dtype=torch.float64)
    torch.testing.assert_close(chain(x), chain.plain(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("connection", ["mhc", "mhc-lite", "hc"])
def test_random_start_is_another_function_but_close(connection):
    torch.manual_seed(0)
    chain, x = Chain(connection, 4, init="random"), torch.randn(3, 5, dtype=torch.float64)
    error = (chain(x) - chain.plain(x)).abs().max()
    assert 1e-9 < error < 0.1


@pytest.mark.parametrize(("connection", "n"), CASES)
def test_mixing_matrices_start_with_rows_of_sum_one(connection, n):
    params = list(site_parameters(connection, n, 5).values())
    X = torch.randn(n, 3, 5, dtype=torch.float64)
    R = connections.find(connection, n).coefficients(X, params, n=n, axis=1)[2]
    torch.testing.assert_close(R.sum(1), torch.ones_like(R.sum(1)), rtol=0, atol=1e-14)


def test_codes_do_not_survive_a_nonlinear_stream_path():
    torch.manual_seed(0)
    chain, x = Chain("mhc", 4, linear=False), torch.randn(3, 5, dtype=torch.float64)
    chain.sites = [site_parameters("mhc", 4, 5, position=i, linear=True) for i in range(4)]
    assert (chain(x) - chain.plain(x)).abs().max() > 1e-6


def test_sum_readout_multiplies_by_n():
    torch.manual_seed(0)
    chain, x = Chain("mhc", 4, "sum"), torch.randn(3, 5, dtype=torch.float64)
    torch.testing.assert_close(chain(x), 4 * chain.plain(x))


def first_gradients(chain: Chain) -> dict[str, torch.Tensor]:
    for parameter in chain.named().values():
        parameter.requires_grad_()
    x = torch.randn(6, 5, dtype=torch.float64)
    (chain(x) * torch.randn(6, 5, dtype=torch.float64)).sum().backward()
    return {name: parameter.grad for name, parameter in chain.named().items()}


MIXED = ("mhc", "mhc-lite", "circulant", "kronecker")


@pytest.mark.parametrize(("connection", "n"), [c for c in CASES if c[0] in MIXED and c[1] >= 3])
def test_mixing_logits_learn_at_the_first_step_on_linear_paths(connection, n):
    torch.manual_seed(n)
    gradients = first_gradients(Chain(connection, n, depth=5))
    for site in range(5):
        bias = gradients[f"{site}.bias"]
        ratio = (bias[2 * n :].abs().max() / bias[n : 2 * n].abs().max()).item()
        # At the last site a mean cancels R up to what 20 iterations leave of the column sums.
        assert ratio >= 1e-5 if 0 < site < 4 else ratio <= 1e-6, (site, ratio)


@pytest.mark.parametrize("n", [3, 4])
def test_learned_readout_keeps_the_last_mixing_logits_alive(n):
    torch.manual_seed(n)
    bias = first_gradients(Chain("mhc", n, "learned"))["3.bias"]
    assert bias[2 * n :].abs().max() >= 1e-5 * bias[n : 2 * n].abs().max()


@pytest.mark.parametrize(("connection", "n"), [c for c in CASES if c[1] in (2, 3, 4, 8)])
@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("how", ["mean", "learned"])
def test_every_parameter_learns_within_two_steps(connection, n, linear, how):
    torch.manual_seed(n)
    chain = Chain(connection, n, how, linear)
    parameters = chain.named()
    moved = {name: parameter.clone() for name, parameter in parameters.items()}
    optimizer = torch.optim.SGD([p.requires_grad_() for p in parameters.values()], lr=0.1)
    alive = set()
    x, target = torch.randn(2, 6, 5, dtype=torch.float64)
    for _ in range(2):
        optimizer.zero_grad()
        ((chain(x) - target) ** 2).mean().backward()
        alive |= {name for name, p in parameters.items() if p.grad is not None and p.grad.abs().max() > 0}
        optimizer.step()
    assert alive == set(parameters)
    assert all(not torch.equal(moved[name], parameter) for name, parameter in parameters.items())


@pytest.mark.parametrize("n", range(2, 9))
def test_mixing_logits_learn_within_two_steps_on_nonlinear_paths(n):
    torch.manual_seed(n)
    chain = Chain("mhc", n, linear=False)
    before = [site["bias"][2 * n :].clone() for site in chain.sites]
    optimizer = torch.optim.SGD([p.requires_grad_() for p in chain.named().values()], lr=1.0)
    x, target = torch.randn(2, 6, 5, dtype=torch.float64)
    for _ in range(2):
        optimizer.zero_grad()
        ((chain(x) - target) ** 2).mean().backward()
        optimizer.step()
    for site in (1, 2):
        assert (chain.sites[site]["bias"][2 * n :] - before[site]).abs().max() > 1e-9


@given(n=st.integers(2, 8), position=st.integers(0, 20))
def test_unequal_weights_sum_to_one_and_rotate(n, position):
    w = initial.unequal_weights(n, position)
    assert abs(w.sum().item() - 1) < 1e-14
    assert len(set(w.tolist())) == n and w.min() > 0
    assert torch.equal(w, initial.unequal_weights(n, 0).roll(position))


@settings(deadline=None)
@given(connection=st.sampled_from(MULTI_STREAM), n=st.integers(1, 8), channels=st.integers(1, 9), linear=st.booleans())
def test_values_have_the_declared_names_order_shapes_and_dtype(connection, n, channels, linear):
    if not takes(connection, n):
        return
    shapes = connections.parameter_shapes(connection, n, channels)
    values = site_parameters(connection, n, channels, linear=linear, dtype=torch.float32)
    assert list(values) == list(shapes)
    assert {name: tuple(value.shape) for name, value in values.items()} == shapes
    assert all(v.dtype == torch.float32 and v.isfinite().all() for v in values.values())
    assert connections.parameter_count(shapes) == sum(v.numel() for v in values.values())


def test_parameter_counts_of_each_connection():
    n, C = 4, 16
    count = lambda name: connections.parameter_count(connections.parameter_shapes(name, n, C))
    assert connections.parameter_count(connections.parameter_shapes("residual", 1, C)) == 0
    assert count("mhc") == n * C * 24 + 3 + 24
    assert count("mhc-lite") == n * C * 32 + 3 + 32
    assert count("identity") == n * C * 8 + 2 + 8
    assert count("hc-static") == n + n + n * n
    assert count("hc") == count("hc-static") + C + C + C * n + 3
    assert connections.parameter_count(connections.readout_shapes("learned", n, C)) == n * C * n + 1 + n


def test_hyper_connection_reads_one_stream_in_turn():
    for position in range(5):
        values = site_parameters("hc", 3, 4, position=position)
        assert values["static_pre"].argmax() == position % 3
        assert torch.equal(values["static_res"], torch.eye(3).double())
        assert values["scale_res"].item() == pytest.approx(0.01)


@pytest.mark.parametrize("connection", MULTI_STREAM)
def test_no_two_values_share_memory(connection):
    values = site_parameters(connection, 4, 4)
    assert len({v.untyped_storage().data_ptr() for v in values.values()}) == len(values)


def test_random_start_follows_the_generator():
    draw = lambda seed: values_of(init="random", generator=torch.Generator().manual_seed(seed))["phi"]
    assert torch.equal(draw(0), draw(0)) and not torch.equal(draw(0), draw(1))
    assert values_of(init="random")["phi"].std().item() == pytest.approx(0.02, rel=0.2)
    assert torch.equal(values_of()["phi"], torch.zeros(24, 24))


def test_values_can_be_made_on_the_meta_device():
    assert values_of(init="random", device="meta")["phi"].is_meta
    readout = connections.readout_values(
        "learned", 4, 6, linear=True, init="preserve", dtype=torch.float32, device="meta"
    )
    assert {name: tuple(v.shape) for name, v in readout.items()} == connections.readout_shapes("learned", 4, 6)


@pytest.mark.parametrize("how", ["mean", "sum"])
def test_plain_readouts_have_no_parameters(how):
    assert connections.readout_shapes(how, 4, 6) == {}


def test_one_stream_has_nothing_to_learn():
    assert all(connections.parameter_shapes(name, 1, 6) == {} for name in connections.CONNECTIONS)
    assert connections.readout_shapes("learned", 1, 6) == {}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: connections.parameter_shapes("foo", 4, 6), "connection='foo' is not known"),
        (lambda: connections.parameter_shapes("foo", 1, 6), "connection='foo' is not known"),
        (lambda: connections.parameter_shapes("mhc-lite", 5, 6), "takes n from 1 to 4"),
        (lambda: connections.parameter_shapes("residual", 2, 6), "takes n from 1 to 1"),
        (lambda: connections.parameter_shapes("mhc", 0, 6), "takes n from 1 to 8"),
        (lambda: connections.readout_shapes("max", 4, 6), "reduce='max' is not known"),
        (lambda: values_of(init="zeros"), "init='zeros' is not known"),
    ],
)
def test_wrong_options_are_named(call, message):
    with pytest.raises(InvalidOptionError, match=message):
        call()


def test_gate_start_is_exact_through_the_biases():
    pre, post = initial.gate_biases(4, position=0, linear=True)
    assert torch.sigmoid(pre).sum().item() == pytest.approx(1, abs=1e-15)
    assert (2 * torch.sigmoid(post)).tolist() == pytest.approx([1.2, 0.8, 1, 1], abs=1e-15)
    assert math.isclose((torch.sigmoid(pre) @ initial.halved_codes(4).write).item(), 0, abs_tol=1e-16)
