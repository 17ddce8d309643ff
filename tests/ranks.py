"""Several processes on this machine that form one group, over gloo on loopback."""

from __future__ import annotations

import gc
import multiprocessing
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

PRELOADED = (
    *(
        "torch._dynamo",
        "torch.distributed.fsdp",
        "torch.distributed.pipelining",
        "torch.distributed.tensor.experimental",
    ),
    *("mhc_compile", "mhc_compile.passes.order"),
    *("pytest", "tests.warmed_up"),
)
"""What every rank imports: ranks are forks of one process that has done it, which saves seconds for each."""


def run_ranks(function: Callable[..., None], folder: Path, *arguments: Any, size: int = 2) -> None:
    """Call `function(rank, folder, *arguments)` in `size` new processes; an error in one of them is raised here.

    `folder` is shared by the processes: what they return lies there. The function must be importable by name.
    """
    multiprocessing.set_forkserver_preload(list(PRELOADED))
    meeting = folder / f"meeting-{uuid.uuid4()}"
    mp.start_processes(_join, (size, meeting, function, folder, arguments), nprocs=size, start_method="forkserver")


def _join(rank: int, size: int, meeting: Path, function: Callable[..., None], folder: Path, arguments: Any) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    gc.freeze()  # what was imported need not be gone through for every optimizer and whenever garbage is looked for
    gc.set_threshold(20_000, 20, 50)  # as in `conftest.py`
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    try:
        function(rank, folder, *arguments)
    finally:
        dist.destroy_process_group()
