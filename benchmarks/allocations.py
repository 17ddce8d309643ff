"""The peak of what PyTorch's allocator hands out on the CPU while something runs."""

from __future__ import annotations

import gc
import json
import tempfile
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

from torch.profiler import ProfilerActivity, profile


def peak_bytes(run: Callable[[], object]) -> int:
    """Most bytes that lived at once of those allocated since `run` began, in eager and in compiled code alike.

    The allocator reports each block to the profiler. What was there before is not counted, and must not be freed
    by `run`: the profiler does not know its size.
    """
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder, "trace.json")
        profiled.export_chrome_trace(str(trace))
        events = [event for event in json.loads(trace.read_text())["traceEvents"] if event["name"] == "[memory]"]
    changes = (event["args"]["Bytes"] for event in sorted(events, key=lambda event: event["ts"]))
    return max(accumulate(changes), default=0)
