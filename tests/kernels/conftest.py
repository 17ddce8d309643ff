"""The kernels themselves are tested as users have them."""

from collections.abc import Iterator

import pytest

from tests.quick_compiler import real_compiler


@pytest.fixture(scope="module", autouse=True)
def _as_users_have_them() -> Iterator[None]:
    with real_compiler():
        yield
