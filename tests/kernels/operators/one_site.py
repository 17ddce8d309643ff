"""One site of a connection, between streams and where they begin."""

from __future__ import annotations

from mhc_compile.kernels.operators import streams


def one_site(X, y, params, *, connection, axis):
    pre, post, R = streams.coefficients(X, params, connection=connection, axis=axis)
    return streams.read(X, pre), streams.write(X, y, post, R)


def entry_site(x, y, params, *, connection, n, axis):
    pre, post, R = streams.entry_coefficients(x, params, connection=connection, n=n, axis=axis)
    return streams.entry_read(x, pre), streams.entry_write(x, y, post, R)
