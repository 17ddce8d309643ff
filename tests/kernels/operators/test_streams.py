"""What the operators on streams compute, for every connection, shape and axis."""

from __future__ import annotations

import pytest
import torch

from mhc_compile.errors import InvalidOptionError
from mhc_compile.kernels.formulas import connections
from mhc_compile.kernels.operators import streams
from tests.kernels.operators.one_site import entry_site, one_site
from tests.kernels.site_chain import MULTI_STREAM, Chain, noisy, site_parameters


def test_expand_is_a_view():
    x = torch.randn(2, 3)
    X = streams.expand(x, n=4)
    assert X.shape == (4, 2, 3) and X.stride(0) == 0 and X.data_ptr() == x.data_ptr()


@pytest.mark.parametrize("connection", MULTI_STREAM)
def test_one_stream_is_the_residual_connection(connection):
    x, y = torch.randn(2, 3, 4)
    assert torch.equal(one_site(x[None], y, (), connection=connection, axis=1)[1][0], x + y)


@pytest.mark.parametrize("connection", MULTI_STREAM)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_entry_forms_equal_expanded_forms(connection, axis):
    torch.manual_seed(0)
    shape = (2, 5, 4)
    params = noisy(site_parameters(connection, 3, shape[axis]))
    leaves = [torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64), *params]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    x, y, params = leaves[0], leaves[1], leaves[2:]
    entry = entry_site(x, y, params, connection=connection, n=3, axis=axis)
    full = one_site(streams.expand(x, n=3), y, params, connection=connection, axis=axis)
    weights = [torch.randn_like(t) for t in full]
    for a, b in zip(entry, full, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    gradients = [
        torch.autograd.grad(sum((t * w).sum() for t, w in zip(pair, weights, strict=True)), leaves)
        for pair in (entry, full)
    ]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("connection", MULTI_STREAM)
def test_coefficients_broadcast_against_a_stream(connection):
    X = torch.randn(3, 2, 5, 4)
    params = list(site_parameters(connection, 3, 5, dtype=torch.float32).values())
    pre, post, R = streams.coefficients(X, params, connection=connection, axis=1)
    for value, lead in ((pre, (3,)), (post, (3,)), (R, (3, 3))):
        assert value.shape[: len(lead)] == lead and value.shape[len(lead) + 1] == 1
        torch.broadcast_shapes(value.shape[len(lead) :], X.shape[1:])
        assert value.ndim == len(lead) + 3
    if connection == "mhc":
        assert pre.shape == (3, 2, 1, 4) and R.shape == (3, 3, 2, 1, 4)


@pytest.mark.parametrize("connection", MULTI_STREAM)
@pytest.mark.parametrize("how", ["mean", "sum", "learned"])
def test_channel_first_is_channel_last_moved(connection, how):
    torch.manual_seed(0)
    X, y = torch.randn(3, 2, 5, 4, 6, dtype=torch.float64), torch.randn(2, 5, 4, 6, dtype=torch.float64)
    params = noisy(site_parameters(connection, 3, 5))
    options = {"linear": True, "init": "random", "dtype": torch.float64, "device": "cpu"}
    readout = noisy(connections.readout_values(how, 3, 5, **options))
    u, new = one_site(X, y, params, connection=connection, axis=1)
    moved = one_site(X.movedim(2, -1), y.movedim(1, -1), params, connection=connection, axis=3)
    torch.testing.assert_close(u.movedim(1, -1), moved[0])
    torch.testing.assert_close(new.movedim(2, -1), moved[1])
    first, last = streams.reduce(new, readout, how=how, axis=1), streams.reduce(moved[1], readout, how=how, axis=3)
    torch.testing.assert_close(first.movedim(1, -1), last)


@pytest.mark.parametrize("connection", MULTI_STREAM)
def test_gradients_of_a_site(connection):
    torch.manual_seed(0)
    X, y = torch.randn(3, 2, 2, dtype=torch.float64), torch.randn(2, 2, dtype=torch.float64)
    leaves = [t.requires_grad_() for t in (X, y, *noisy(site_parameters(connection, 3, 2)))]
    site = lambda X, y, *params: one_site(X, y, params, connection=connection, axis=1)
    entry = lambda x, y, *params: entry_site(x, y, params, connection=connection, n=3, axis=1)
    assert torch.autograd.gradcheck(site, leaves, fast_mode=True)
    assert torch.autograd.gradcheck(entry, [X[0].detach().requires_grad_(), *leaves[1:]], fast_mode=True)


@pytest.mark.parametrize("how", ["mean", "sum", "learned"])
def test_gradients_of_a_readout(how):
    torch.manual_seed(0)
    options = {"linear": True, "init": "random", "dtype": torch.float64, "device": "cpu"}
    params = noisy(connections.readout_values(how, 3, 4, **options))
    leaves = [t.requires_grad_() for t in (torch.randn(3, 2, 4, dtype=torch.float64), *params)]
    assert torch.autograd.gradcheck(lambda X, *p: streams.reduce(X, p, how=how, axis=1), leaves, fast_mode=True)


def permuted(params: list[torch.Tensor], order: list[int], channels: int) -> list[torch.Tensor]:
    """mhc parameters with stream i renamed to order.index(i)."""
    phi, alpha, bias = params
    n, index = len(order), torch.tensor(order)
    matrix = torch.arange(2 * n, 2 * n + n * n).reshape(n, n)[index][:, index].flatten()
    columns = torch.cat((index, n + index, matrix))
    return [phi.reshape(n, channels, -1)[index].reshape(n * channels, -1)[:, columns], alpha, bias[columns]]


def test_renaming_the_streams_renames_the_result():
    torch.manual_seed(0)
    order, channels = [2, 0, 3, 1], 5
    X, y = torch.randn(4, 3, channels, dtype=torch.float64), torch.randn(3, channels, dtype=torch.float64)
    params = noisy(site_parameters("mhc", 4, channels))
    u, new = one_site(X, y, params, connection="mhc", axis=1)
    renamed = one_site(X[order], y, permuted(params, order, channels), connection="mhc", axis=1)
    torch.testing.assert_close(renamed[0], u)
    torch.testing.assert_close(renamed[1], new[order])
    assert not torch.allclose(one_site(X[order], y, params, connection="mhc", axis=1)[1], new[order])


def test_mixing_conserves_the_mean_of_the_streams():
    torch.manual_seed(0)
    X, y = torch.randn(4, 3, 5, dtype=torch.float64), torch.zeros(3, 5, dtype=torch.float64)
    new = one_site(X, y, noisy(site_parameters("mhc-lite", 4, 5)), connection="mhc-lite", axis=1)[1]
    torch.testing.assert_close(new.mean(0), X.mean(0))


@pytest.mark.parametrize("connection", MULTI_STREAM)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_numbers_are_not_masked_and_stay_in_their_token(connection, bad):
    X, y = torch.randn(3, 4, 5), torch.randn(4, 5)
    X[:, 1, 2] = bad
    y[2, 0] = bad
    params = noisy(site_parameters(connection, 3, 5, dtype=torch.float32))
    u, new = one_site(X, y, params, connection=connection, axis=1)
    assert not u[1].isfinite().all()
    assert not new[:, 1].isfinite().all() and not new[:, 2].isfinite().all()
    assert u[[0, 2, 3]].isfinite().all() and new[:, [0, 3]].isfinite().all()


@pytest.mark.parametrize("connection", MULTI_STREAM)
@pytest.mark.parametrize("shape", [(0, 5), (2, 0, 5)])
def test_an_empty_batch_passes_forward_and_backward(connection, shape):
    x = torch.randn(shape, requires_grad=True)
    params = [p.requires_grad_() for p in noisy(site_parameters(connection, 3, 5, dtype=torch.float32))]
    axis = x.ndim - 1
    _, X = entry_site(x, x, params, connection=connection, n=3, axis=axis)
    u, new = one_site(X, x, params, connection=connection, axis=axis)
    assert u.shape == shape and new.shape == (3, *shape)
    (streams.reduce(new, how="mean", axis=axis) + u).sum().backward()
    assert x.grad.shape == shape
    assert all(p.grad is None or not p.grad.any() for p in params)


@pytest.mark.parametrize("connection", ["hc", "mhc", "mhc-lite"])
def test_one_graph_for_every_batch_size(connection):
    torch.manual_seed(0)
    chain = Chain(connection, 3, "learned", depth=2)
    torch._dynamo.reset()
    compiled = torch.compile(chain.__call__, fullgraph=True, dynamic=True, backend="eager")
    for batch in (4, 7):
        x = torch.randn(batch, 5, dtype=torch.float64)
        torch.testing.assert_close(compiled(x), chain(x))


@pytest.mark.usefixtures("as_users_have_them")
def test_two_runs_are_bit_equal():
    torch.manual_seed(0)
    X, y = torch.randn(4, 63, 65), torch.randn(63, 65)
    params = [p.requires_grad_() for p in noisy(site_parameters("mhc", 4, 65, dtype=torch.float32))]
    runs = []
    for _ in range(2):
        u, new = one_site(X, y, params, connection="mhc", axis=1)
        runs.append((u, new, *torch.autograd.grad(u.sum() + new.square().sum(), params)))
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_wrong_names_are_refused():
    X = torch.randn(3, 2, 5)
    with pytest.raises(InvalidOptionError, match="connection='foo' is not known"):
        streams.coefficients(X, (), connection="foo", axis=1)
    with pytest.raises(InvalidOptionError, match="reduce='max' is not known"):
        streams.reduce(X, how="max", axis=1)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("connection", MULTI_STREAM)
def test_what_is_read_lies_in_memory_as_the_stream_does(connection, layout):
    """A view behind it, and random numbers drawn for it, are those of the plain model."""
    x, y = (torch.randn(2, 3, 4, 5).double().contiguous(memory_format=layout) for _ in range(2))
    params = noisy(site_parameters(connection, 4, 3))
    u, X = entry_site(x, y, params, connection=connection, n=4, axis=1)
    v, X = one_site(X, y, params, connection=connection, axis=1)
    for value in (u, v, X[0], streams.reduce(X, how="mean", axis=1)):
        assert value.stride() == x.stride()
