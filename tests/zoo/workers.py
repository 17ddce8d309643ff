"""Calls in worker processes that may crash or hang without ending the run."""

from __future__ import annotations

import multiprocessing
import queue
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from multiprocessing.connection import Connection
from typing import Any

_SPAWN = multiprocessing.get_context("spawn")
_PATIENCE = 2.0  # seconds for a worker to leave by itself
_UNIT = 2**30 if sys.platform == "darwin" else 2**20  # of `ru_maxrss` in a GiB


def call_isolated(
    function: Callable[[str], Any], tasks: Sequence[str], *, jobs: int, timeout: float, memory: float = 4.0
) -> Iterator[tuple[str, Any, str]]:
    """Call `function` on every task in `jobs` processes, each of which serves many tasks.

    Args:
        function: importable by name, because the processes start afresh.
        tasks: its arguments.
        jobs: number of processes.
        timeout: seconds until a call counts as hanging and its process is ended.
        memory: GiB; a process that has held more is replaced by a fresh one, since what it freed it may keep.

    Yields:
        Task, result and "" as they come; or task, None and why there is no result.
    """
    idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
    workers = [_Worker(function, memory) for _ in range(jobs)]
    for worker in workers:
        idle.put(worker)

    def one(task: str) -> tuple[str, Any, str]:
        worker = idle.get()
        try:
            return (task, *worker.ask(task, timeout))
        finally:
            idle.put(worker)

    with ThreadPoolExecutor(jobs) as pool:
        try:
            for future in as_completed([pool.submit(one, task) for task in tasks]):
                yield future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            for worker in workers:
                worker.stop()


class _Worker:
    """One process, started on first use and again after it died."""

    def __init__(self, function: Callable[[str], Any], memory: float) -> None:
        self._function, self._memory = function, memory
        self._process: Any = None
        self._pipe: Any = None

    def ask(self, task: str, timeout: float) -> tuple[Any, str]:
        if self._process is None:
            self._start()
        self._pipe.send(task)
        try:
            if self._pipe.poll(timeout):
                result, held = self._pipe.recv()
                if held > self._memory:
                    self.stop()
                return result, ""
            reason = f"no result after {timeout:.0f} s"
            self._process.kill()  # it would not leave by itself
        except (EOFError, ConnectionError):
            self._process.join()
            reason = f"the process died with exit code {self._process.exitcode}"
        self.stop()
        return None, reason

    def _start(self) -> None:
        self._pipe, there = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=_serve, args=(self._function, there), daemon=True)
        self._process.start()
        there.close()

    def stop(self) -> None:
        if self._process is not None:
            self._pipe.close()  # which ends an idle worker
            self._process.join(_PATIENCE)
            self._process.kill()
            self._process.join()
            self._process = None


def _serve(function: Callable[[str], Any], pipe: Connection) -> None:
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        pipe.send((function(task), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _UNIT))
