from __future__ import annotations

import pytest
import torch

from mhc_compile.errors import InvalidOptionError
from mhc_compile.kernels.formulas import connections
from mhc_compile.kernels.operators import streams
from tests.kernels.site_chain import MULTI_STREAM, Chain, noisy, site_parameters

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def one_site(X, y, params, *, connection, axis):
    pre, post, R = streams.coefficients(X, params, connection=connection, axis=axis)
    return streams.read(X, pre), streams.write(X, y, post, R)


def entry_site(x, y, params, *, connection, n, axis):
    pre, post, R = streams.entry_coefficients(x, params, connection=connection, n=n, axis=axis)
    return streams.entry_read(x, pre), streams.entry_write(x, y, post, R)


def bits(t: torch.Tensor) -> torch.Tensor:
    return t.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[t.element_size()])


def test_expand_is_a_view():
    x = torch.randn(2, 3)
    X = streams.expand(x, n=4)
    assert X.shape == (4, 2, 3) and X.stride(0) == 0 and X.data_ptr() == x.data_ptr()


@pytest.mark.parametrize("x_dtype", FLOATS)
@pytest.mark.parametrize("y_dtype", FLOATS)
def test_residual_is_bit_equal_to_the_add(x_dtype, y_dtype):
    torch.manual_seed(0)
    x, y = (1000 * torch.randn(64, 65)).to(x_dtype), torch.randn(64, 65).to(y_dtype)
    x[0, :4], y[0, :4] = torch.tensor([-0.0, 0.0, float("inf"), 1.0]), torch.tensor([-0.0, -0.0, 1.0, float("inf")])
    for u, new in (
        one_site(x[None], y, (), connection="residual", axis=1),
        entry_site(x, y, (), connection="residual", n=1, axis=1),
    ):
        assert u.dtype == x.dtype and new.dtype == (x + y).dtype
        assert torch.equal(bits(u), bits(x)) and torch.equal(bits(new[0]), bits(x + y))
        for how in ("mean", "sum", "learned"):
            assert torch.equal(bits(streams.reduce(new, how=how, axis=1)), bits(x + y))


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


@pytest.mark.parametrize("connection", MULTI_STREAM)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("autocast", [False, True])
def test_coefficients_keep_their_dtype_and_results_that_of_the_model(connection, dtype, autocast):
    torch.manual_seed(0)
    x, y = torch.randn(4, 5).to(dtype), torch.randn(4, 5).to(dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    params = noisy(site_parameters(connection, 3, 5, dtype=wide))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        full = streams.coefficients(streams.expand(x, n=3), params, connection=connection, axis=1)
        entry = streams.entry_coefficients(x, params, connection=connection, n=3, axis=1)
        u, new = one_site(streams.expand(x, n=3), y, params, connection=connection, axis=1)
        learned = connections.readout_values("learned", 3, 5, linear=True, init="random", dtype=wide, device="cpu")
        out = streams.reduce(new, list(learned.values()), how="learned", axis=1)
    assert {c.dtype for c in (*full, *entry)} == {wide}
    assert u.dtype == new.dtype == out.dtype == dtype
    expected = streams.coefficients(streams.expand(x.double(), n=3), params, connection=connection, axis=1)
    for a, b in zip(full, expected, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("connection", MULTI_STREAM)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 5e-4), (torch.bfloat16, 1.5e-2)])
def test_lower_precision_follows_fp64(connection, dtype, bound):
    torch.manual_seed(0)
    X, y = torch.randn(4, 63, 65).to(dtype), torch.randn(63, 65).to(dtype)
    params = noisy(site_parameters(connection, 4, 65, dtype=torch.float32), 0.1)
    wide = [p.double() for p in params]
    low = one_site(X, y, params, connection=connection, axis=1)
    high = one_site(X.double(), y.double(), wide, connection=connection, axis=1)
    for a, b in zip(low, high, strict=True):
        assert (a - b).abs().max() <= bound * b.abs().max()


def test_write_takes_the_wider_dtype():
    post, R = torch.ones(2, 1, 1), torch.eye(2)[..., None, None]
    X, y = torch.ones(2, 3, 4, dtype=torch.bfloat16), torch.ones(3, 4)
    assert streams.write(X, y, post, R).dtype == torch.float32
    assert streams.entry_write(X[0], y.half(), post, R).dtype == torch.float32
    assert streams.write(X, y.bfloat16(), post, R).dtype == torch.bfloat16


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
