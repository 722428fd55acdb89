"""What else the machine did while something was timed: a figure of a busy machine is none of an idle one."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Shares of all cores above which the user is told.
_OTHERS, _STEAL, _LOAD = 0.05, 0.01, 0.5


@dataclass(frozen=True)
class Moment:
    """Counters at one time, in seconds; None where the system does not tell.

    Attributes:
        wall: any clock.
        busy: of all cores together.
        steal: which the host of a virtual machine took from it.
        load: average over the last minute.
    """

    wall: float
    busy: float | None
    steal: float | None
    load: float | None


def now(root: Path = Path("/")) -> Moment:
    """Read them."""
    try:
        ticks = [int(word) for word in (root / "proc/stat").read_text().split("\n", 1)[0].split()[1:]]
        load: float | None = float((root / "proc/loadavg").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return Moment(time.monotonic(), None, None, None)
    user, nice, system, _, _, irq, softirq, steal, *_ = [*ticks, *[0] * 8]
    second = os.sysconf("SC_CLK_TCK")
    return Moment(time.monotonic(), (user + nice + system + irq + softirq) / second, steal / second, load)


def between(start: Moment, end: Moment, own: float) -> dict[str, Any]:
    """What others did meanwhile.

    Args:
        start: before.
        end: after.
        own: seconds that our processes computed.

    Returns:
        ``cores``; ``load_at_start``; ``others_cores``, how many other processes used on average; ``steal``, the share
        of all cores that the host took. None where the system does not tell.
    """
    cores, wall = os.cpu_count() or 1, max(end.wall - start.wall, 1e-9)
    told: dict[str, Any] = {"cores": cores, "load_at_start": start.load, "others_cores": None, "steal": None}
    if start.busy is not None and end.busy is not None:
        told["others_cores"] = max(0.0, (end.busy - start.busy - own) / wall)
    if start.steal is not None and end.steal is not None:
        told["steal"] = max(0.0, (end.steal - start.steal) / wall / cores)
    return told


def notes(told: dict[str, Any]) -> list[str]:
    """What readers of the times have to know of `between`."""
    cores, load, others, steal = (told[name] for name in ("cores", "load_at_start", "others_cores", "steal"))
    found = []
    if others is None:
        found.append("what else the machine did is not known: there is no /proc/stat")
    if others is not None and others > _OTHERS * cores:
        found.append(f"other processes used {others:.1f} of {cores} cores meanwhile")
    if steal is not None and steal > _STEAL:
        found.append(f"the host took {steal:.0%} of the cores from this virtual machine meanwhile")
    if load is not None and load > _LOAD * cores:
        found.append(f"the load average was {load:.1f} on {cores} cores at the start")
    disturbed = [one for one in found if "not known" not in one]
    why = "the machine was busy: times are longer than on an idle one, and a ratio is less sure"
    return [*(one for one in found if one not in disturbed), *([f"{why}: {'; '.join(disturbed)}"] if disturbed else [])]
