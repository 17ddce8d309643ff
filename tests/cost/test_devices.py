from __future__ import annotations

import pytest
import torch

from mhc_compile.cost.devices import GPUS, NAMES, check_device, find_device
from mhc_compile.errors import InvalidOptionError


def test_an_unknown_device_lists_those_that_are_known() -> None:
    with pytest.raises(InvalidOptionError, match="h100, a100, b200, mi300x, cpu"):
        check_device("v100")
    assert [check_device(name.upper()) for name in NAMES] == list(NAMES)


@pytest.mark.parametrize("name", GPUS)
def test_every_gpu_has_speeds_for_every_dtype(name: str) -> None:
    device = find_device(name)
    rates = [device.flop_rate(dtype) for dtype in ("bfloat16", "tf32", "float32")]
    assert rates == sorted(rates, reverse=True) and device.byte_rate < device.bandwidth
    assert device.flop_rate("float64") == device.flop_rate("float32")  # nothing better is known


def test_the_cpu_is_measured_on_the_threads_it_has() -> None:
    device = find_device("cpu")
    assert device.product_rate(24) == device.flops["float32"] < device.product_rate(80) == device.product_rate(500)
    assert 1e8 < device.flop_rate("float32") < 1e14 and 1e8 < device.byte_rate < 1e13
    assert str(torch.get_num_threads()) in device.title and "measured" in device.source
