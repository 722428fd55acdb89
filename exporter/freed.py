"""Memory that was freed goes back to the system."""

from __future__ import annotations

import ctypes
import sys


def give_back() -> None:
    """Hand back what was freed: glibc keeps it, in pieces that what comes next may not fit into.

    Other systems' allocators have no such call, and some cannot be asked for one.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim:
        trim(0)
