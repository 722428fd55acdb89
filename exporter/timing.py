"""Fair timing of several things side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any


def interleaved(
    tasks: Mapping[str, Callable[[], Any]],
    rounds: int,
    warmup: int = 3,
    pause: float = 0.0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median milliseconds of each task. They take turns, so that a busy machine disturbs all of them alike.

    `pause` is seconds of rest before each turn: threads of the task before, which wait by spinning, leave the cores.
    `clock` gives seconds; `time.process_time` those of this process's own work, where a task has one thread.
    """
    for task in tasks.values():
        for _ in range(warmup):
            task()
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(rounds):
        for name, task in tasks.items():
            time.sleep(pause)
            start = clock()
            task()
            times[name].append(1e3 * (clock() - start))
    return {name: median(values) for name, values in times.items()}
