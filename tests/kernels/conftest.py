"""Kernels as users have them, for tests of what the quick compiler could change: bits."""

from collections.abc import Iterator

import pytest

from tests.quick_compiler import real_compiler


@pytest.fixture
def as_users_have_them() -> Iterator[None]:
    """C++ is compiled with the real flags."""
    with real_compiler():
        yield
