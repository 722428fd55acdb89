"""Fair timing of several things side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from statistics import median
from typing import Any, TypeVar

T = TypeVar("T")
Clock = Callable[[], float]


def interleaved(
    tasks: Mapping[str, Callable[[], Any]],
    rounds: int,
    warmup: int = 3,
    pause: float = 0.0,
    clock: Clock = time.perf_counter,
) -> dict[str, float]:
    """Median milliseconds of each task. They take turns, so that a busy machine disturbs all of them alike.

    `pause` is seconds of rest before each turn: threads of the task before, which wait by spinning, leave the cores.
    `clock` gives seconds; `time.process_time` those of this process's own work, where a task has one thread.
    """
    times = turns({name: partial(timed, task, clock) for name, task in tasks.items()}, rounds, warmup, pause)
    return {name: median(values) for name, values in times.items()}


def turns(tasks: Mapping[str, Callable[[], T]], rounds: int, warmup: int = 3, pause: float = 0.0) -> dict[str, list[T]]:
    """What each task returns in each round, in which all have their turn; see `interleaved`."""
    for task in tasks.values():
        for _ in range(warmup):
            task()
    results: dict[str, list[T]] = {name: [] for name in tasks}
    for _ in range(rounds):
        for name, task in tasks.items():
            time.sleep(pause)
            results[name].append(task())
    return results


def timed(task: Callable[[], Any], clock: Clock = time.perf_counter) -> float:
    """Milliseconds of one run."""
    start = clock()
    task()
    return 1e3 * (clock() - start)
