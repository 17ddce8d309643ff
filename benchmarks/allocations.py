"""The peak of what PyTorch's allocator hands out while something runs."""

from __future__ import annotations

import gc
import json
import tempfile
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile


def peak_bytes(run: Callable[[], object], device: torch.device | str = "cpu") -> int:
    """Most bytes that lived at once of those allocated since `run` began, in eager and in compiled code alike.

    What was there before is not counted. On the CPU the allocator reports each block to the profiler, which does not
    know the size of what was there before: `run` must not free it.
    """
    gc.collect()
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder, "trace.json")
        profiled.export_chrome_trace(str(trace))
        events = [event for event in json.loads(trace.read_text())["traceEvents"] if event["name"] == "[memory]"]
    changes = (event["args"]["Bytes"] for event in sorted(events, key=lambda event: event["ts"]))
    return max(accumulate(changes), default=0)
