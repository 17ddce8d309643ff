"""The processes of a layout: one group of them does one cell of the table after the other, until one cannot be done."""

from __future__ import annotations

import contextlib
import datetime
import multiprocessing
import os
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from benchmarks.layouts.layout import LAYOUTS, Layout, specification
from benchmarks.layouts.models import compute_experts_in_fp32
from benchmarks.layouts.steps import Steps, errors, one_process, step_of

PRELOADED = ("torch._dynamo", "torch.distributed.fsdp", "torch.distributed.pipelining", "mhc_compile")
"""What each process imports; they are forks of one that has done it."""

PATIENCE = datetime.timedelta(minutes=5)
"""How long a process waits for the others, before it says that one of them is gone."""


@dataclass(frozen=True)
class Cell:
    """One cell of the table: a model, a layout, and what else is switched on."""

    family: str
    layout: str
    extra: str
    plain: bool = False

    @property
    def place(self) -> str:
        """Name of the file for the result."""
        return f"{self.family}.{self.layout}.{self.extra}"


def results(cells: Sequence[Cell], *, threads: int = 1) -> Iterator[tuple[Cell, str]]:
    """What each cell says, in order; all have the same number of processes."""
    multiprocessing.set_forkserver_preload(list(PRELOADED))
    rest = list(cells)
    with tempfile.TemporaryDirectory() as folder:
        while rest:
            with contextlib.suppress(torch.multiprocessing.ProcessRaisedException):
                torch.multiprocessing.start_processes(
                    _work, (folder, rest, threads), nprocs=LAYOUTS[rest[0].layout].world, start_method="forkserver"
                )
            done = [cell for cell in rest if Path(folder, cell.place).exists()]
            if not done:
                raise RuntimeError("the processes ended without a result: look at what they printed")
            yield from ((cell, Path(folder, cell.place).read_text()) for cell in done)
            rest = [cell for cell in rest if cell not in done]


def _work(rank: int, folder: str, cells: Sequence[Cell], threads: int) -> None:
    """One process; the first writes what each cell says."""
    warnings.simplefilter("ignore")
    import torchtitan.tools.utils as device

    device.device_type, device.device_module = "cpu", torch.cpu
    torch.set_num_threads(threads)
    compute_experts_in_fp32()
    from torchtitan.distributed.utils import set_spmd_backend

    set_spmd_backend("partial_dtensor")
    world = LAYOUTS[cells[0].layout].world
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), GLOO_SOCKET_IFNAME="lo")
    for cell in cells:
        with _group(Path(folder, f"{cell.place}.meeting-{os.getppid()}"), rank, world):
            begin = time.monotonic()
            try:
                found = _errors(rank, folder, cell)
            except Exception as error:
                traceback.print_exc()
                text = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
                Path(folder, cell.place).write_text(text)
                raise  # ends the others, who may wait for this one
            if rank == 0:
                text = " / ".join(f"{error:.0e}" for error in found)
                Path(folder, cell.place).write_text(f"{text} ({time.monotonic() - begin:.0f} s)")


@contextlib.contextmanager
def _group(meeting: Path, rank: int, world: int) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world, timeout=PATIENCE)
    yield
    dist.barrier()
    dist.destroy_process_group()
    torch.compiler.reset()


def _errors(rank: int, folder: str, cell: Cell) -> tuple[float, float]:
    from torchtitan.distributed import ParallelDims

    from benchmarks.layouts.layout import parallelism

    layout, tied = LAYOUTS[cell.layout], LAYOUTS[cell.layout].pp == 1
    file = Path(folder, f"{cell.family}.{tied}.alone")
    if rank == 0 and not file.exists():
        torch.save(one_process(specification(cell.family, Layout(), tied), cell.plain), file)
    dist.barrier()
    expected: Steps = torch.load(file)
    dims = ParallelDims.from_config(parallelism(layout), layout.world)
    dims.build_mesh()
    step = step_of(specification(cell.family, layout, tied), layout, cell.extra, cell.plain, dims)
    return errors(step, expected)
