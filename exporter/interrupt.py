"""Ctrl-C that cannot get lost: large libraries catch KeyboardInterrupt while they import and go on, half imported."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_asked = False


@contextmanager
def remembered() -> Iterator[None]:
    """Within this, SIGINT raises KeyboardInterrupt as ever, and `asked` and `check` know of it ever after."""
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
    """Stop here if Ctrl-C was pressed and caught by somebody else."""
    if _asked:
        raise KeyboardInterrupt
