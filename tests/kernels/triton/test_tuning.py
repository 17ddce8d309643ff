"""The fastest tiles win, are measured once, and a device without room for some takes others."""

import math
from collections.abc import Callable, Iterator
from unittest import mock

import pytest
import torch
from triton.runtime.errors import OutOfResources

from mhc_compile.kernels.schedules.schedule import Schedule, Spec
from mhc_compile.kernels.triton import schedules as triton_schedules
from mhc_compile.kernels.triton import tuning as triton_tuning
from mhc_compile.kernels.triton.tiles import Tiles, configurations

N = 4


@pytest.fixture(autouse=True)
def no_device() -> Iterator[None]:
    with (
        mock.patch.object(torch.cuda, "current_device", lambda: 0),
        mock.patch.dict(triton_tuning._FASTEST, clear=True),
    ):
        yield


def specs(tokens: int) -> dict[str, Spec]:
    shapes = {"X": (N, tokens, 64), "phi": (24, N * 64), "alpha": (3,), "bias": (24,)}
    return {name: Spec(shape, torch.float32) for name, shape in shapes.items()}


def measured(milliseconds: dict[Tiles, float], tokens: int = 64) -> Tiles:
    """What is chosen if each configuration takes so long; the tiles are told by the grid and options of the launch."""
    running: list[Schedule] = []

    def do_bench(call: Callable[[], object], **_: object) -> float:
        call()
        launch = running.pop().launches[0]
        time = milliseconds[Tiles(launch.constants["BT"], launch.constants["BC"], launch.options["num_warps"])]
        if math.isinf(time):
            raise OutOfResources(2, 1, "shared memory")
        return time

    with mock.patch.object(triton_tuning, "do_bench", do_bench):
        return triton_tuning.fastest(triton_schedules.gate, specs(tokens), (N, 1, "mhc"), running.append)


def times(fastest: int, none: float = 2.0) -> dict[Tiles, float]:
    return {tiles: 1.0 if i == fastest else none for i, tiles in enumerate(configurations("gate", specs(64), N, 1))}


@pytest.mark.parametrize("index", range(2))
def test_the_fastest_is_chosen(index: int) -> None:
    assert measured(times(index)) == configurations("gate", specs(64), N, 1)[index]


def test_tiles_that_do_not_fit_the_device_are_passed_over() -> None:
    assert measured(times(1, none=math.inf)) == configurations("gate", specs(64), N, 1)[1]


def test_sizes_of_one_power_of_two_are_measured_once() -> None:
    chosen = measured(times(1))
    assert measured({}, tokens=50) == chosen  # nothing is run again
    with pytest.raises(KeyError):
        measured({}, tokens=65)


def test_what_has_one_choice_of_tiles_is_not_measured() -> None:
    inputs = {"X": Spec((N, 64, 64), torch.float32), "y": Spec((64, 64), torch.float32)}
    with mock.patch.object(triton_tuning, "do_bench", side_effect=AssertionError):
        chosen = triton_tuning.fastest(triton_schedules.write, inputs, (N, 1), lambda schedule: None)
    assert (chosen,) == configurations("write", inputs, N, 1)
