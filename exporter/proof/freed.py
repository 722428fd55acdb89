"""Memory that was freed goes back to the system."""

from __future__ import annotations

import ctypes


def give_back() -> None:
    """Hand back what was freed: glibc keeps it, in pieces that the next part of a proof may not fit into."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)
