from __future__ import annotations

import pytest
import torch

from mhc_compile import _torch_compat as compat
from mhc_compile.errors import UnsupportedTorchError


@pytest.mark.parametrize("name", compat.NAMES)
def test_every_private_interface_imports(name):
    assert getattr(compat, name) is not None


@pytest.mark.parametrize("place", ["torch._no_such_module:thing", "torch.nn:_no_such_thing"])
def test_missing_interface_names_itself_and_the_version(monkeypatch, place):
    monkeypatch.setitem(compat.NAMES, "gone", place)
    with pytest.raises(UnsupportedTorchError, match=place.replace(":", r"\.")) as caught:
        compat.load("gone")
    assert torch.__version__ in str(caught.value) and "install" in str(caught.value)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        compat.no_such_name  # noqa: B018
