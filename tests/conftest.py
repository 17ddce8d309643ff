"""What holds for every test file. PyTorch is imported late: the process that hands out tests does not need it."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Iterator

import pytest

from tests import quick_compiler
from tests.tables import runs_all
from tests.where_time_goes import WhereTimeGoes

os.environ.setdefault("TORCH_FAKE_TENSOR_DISPATCH_CACHE", "0")
"""It keeps shapes of operators for a second layer that is alike, and models of tests have one or two: to trace a Llama
of two layers takes a third less without it. Processes that tests start inherit this."""
os.environ.setdefault("TORCH_DYNAMO_RUN_GC_AFTER_COMPILE", "0")
"""Python itself looks for garbage often enough for graphs that are this small."""


def pytest_configure(config: pytest.Config) -> None:
    """A worker reports to the process that hands out tests: there the times are added up, or in the only process."""
    quick_compiler.choose(config)
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(WhereTimeGoes())


def pytest_sessionstart(session: pytest.Session) -> None:
    """Garbage is looked for less often than Python does: models of tests are small, and graphs are many objects.

    Without a GPU, PyTorch looks for NVIDIA's library at every operator on fake tensors, unless none is visible.
    """
    gc.set_threshold(20_000, 20, 50)
    if not session.config.getoption("numprocesses", None):
        import torch

        if not torch.cuda.is_available():
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        # To loggers that do not propagate pytest adds handlers of its own. With one on this, PyTorch writes every graph
        # and every tensor that it traces into records that nobody reads.
        logging.getLogger("torch.__trace").propagate = True


@pytest.fixture(scope="module", autouse=True)
def _small_heap() -> Iterator[None]:
    """What earlier files imported and compiled is dropped, or left out when garbage is collected.

    Python, Dynamo and this package go over all objects again and again: with those of hundreds of compiled models, the
    last files would take four times as long as by themselves.
    """
    import torch

    gc.collect()
    gc.freeze()
    torch.default_generator.manual_seed(0)
    yield
    torch.compiler.reset()


@pytest.fixture(autouse=True)
def _seed() -> None:
    """The same numbers whichever tests ran before in this process: workers take them in an order that changes.

    `torch.manual_seed` would note with a stack trace, for each kind of device, what to do once there is one.
    """
    import torch

    torch.default_generator.manual_seed(0)


@pytest.fixture
def without_kernels(pytestconfig: pytest.Config) -> Iterator[None]:
    """For a table of connections whose test is about something else: each has kernels of its own to compile.

    `tests/kernels` holds those against the formulas; in `make exhaustive` the table runs with them, too.
    """
    if runs_all(pytestconfig):
        yield
        return
    with quick_compiler.no_compiler():
        yield
