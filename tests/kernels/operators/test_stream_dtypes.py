"""Dtypes and rounding of streams: results have that of the model, coefficients their own, a residual is the add."""

from __future__ import annotations

import pytest
import torch

from mhc_compile.kernels.formulas import connections
from mhc_compile.kernels.operators import streams
from tests.kernels.operators.one_site import entry_site, one_site
from tests.kernels.site_chain import MULTI_STREAM, noisy, site_parameters

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def bits(t: torch.Tensor) -> torch.Tensor:
    return t.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[t.element_size()])


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
