"""Where and when figures were measured."""

from __future__ import annotations

import datetime
import os
import platform
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """``{"date", "machine": {"cpu", "cores", "python"}}``: what a figure needs beside it, and no name of anybody's."""
    facts = {"cpu": _cpu(), "cores": os.cpu_count(), "python": platform.python_version()}
    return {"date": datetime.date.today().isoformat(), "machine": facts}


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
