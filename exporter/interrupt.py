"""Remembers Ctrl-C: large libraries catch KeyboardInterrupt while they import, and then continue half imported."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_asked = False


@contextmanager
def remembered() -> Iterator[None]:
    """While this is open, SIGINT raises KeyboardInterrupt as usual, and `asked` and `check` remember that it did."""
    global _asked
    _asked = False
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: Any) -> None:
        global _asked
        _asked = True
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def asked() -> bool:
    """Whether Ctrl-C was pressed."""
    return _asked


def check() -> None:
    """Raise KeyboardInterrupt if Ctrl-C was pressed and some library swallowed it."""
    if _asked:
        raise KeyboardInterrupt
