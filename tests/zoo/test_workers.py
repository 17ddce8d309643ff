from __future__ import annotations

import os
import time

import pytest

from tests.zoo.workers import call_isolated


def answer_crash_or_hang(task):
    if task == "crash":
        os._exit(7)
    if task == "hang":
        time.sleep(60)
    return task.upper()


def test_a_crash_or_a_hang_of_one_task_does_not_end_the_others():
    found = call_isolated(answer_crash_or_hang, ["a", "crash", "b", "hang", "c"], jobs=1, timeout=3.0)
    results = {task: (result, reason) for task, result, reason in found}
    assert [results[t][0] for t in "abc"] == ["A", "B", "C"]
    assert results["crash"] == (None, "the process died with exit code 7")
    assert results["hang"] == (None, "no result after 3 s")


def process(task):
    return os.getpid()


@pytest.mark.parametrize(("memory", "processes"), [(0.0, 3), (100.0, 1)])
def test_a_process_that_held_much_memory_is_replaced(memory, processes):
    found = call_isolated(process, ["a", "b", "c"], jobs=1, timeout=30.0, memory=memory)
    assert len({pid for _, pid, _ in found}) == processes
