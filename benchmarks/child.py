"""A command as a child process: its seconds and its peak memory."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

PAUSE = 0.05  # seconds


def child(command: Sequence[str], log: Path) -> dict[str, float]:
    """Run it, with what it prints in `log`.

    Returns:
        seconds, cpu_seconds (own work, of all its threads), peak_gb (resident), and of that anonymous_gb and mapped_gb,
        each at its own peak, looked at every 50 ms: mapped pages are of files, and the system may take them back.

    Raises:
        SystemExit: it fails.
    """
    start = time.perf_counter()
    peaks = {"RssAnon": 0, "RssFile": 0}
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
            for name, kilobytes in _resident(process.pid).items():
                peaks[name] = max(peaks[name], kilobytes)
            time.sleep(PAUSE)
    _, status, usage = ended
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"$ {' '.join(command)}\n{log.read_text()[-4000:]}")
    return {
        "seconds": round(time.perf_counter() - start, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_gb": round(usage.ru_maxrss * 1024 / 1e9, 2),
        "anonymous_gb": round(peaks["RssAnon"] * 1024 / 1e9, 2),
        "mapped_gb": round(peaks["RssFile"] * 1024 / 1e9, 2),
    }


def _resident(process: int) -> dict[str, int]:
    """Kilobytes of a process that may have ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return {}
    found = (line.partition(":") for line in lines if line.startswith(("RssAnon:", "RssFile:")))
    return {name: int(text.split()[0]) for name, _, text in found}
