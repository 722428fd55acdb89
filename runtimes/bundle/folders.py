"""Folders on the disk: locks, and fsync. Symbolic links to folders are refused."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


def sync(folder: Path) -> None:
    """Write a folder's entries to the disk; its files were synced when they were closed."""
    descriptor = os.open(folder, os.O_RDONLY)
    # Some network file systems cannot sync folders, and offer nothing else.
    with contextlib.suppress(OSError):
        os.fsync(descriptor)
    os.close(descriptor)


@contextlib.contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[bool]:
    """Hold a lock on a folder; yields whether it was acquired. The kernel releases it when the process dies.

    Raises:
        OSError: it is no folder, or a link.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield _flock(descriptor, wait)
    finally:
        os.close(descriptor)


def _flock(descriptor: int, wait: bool) -> bool:
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except (ImportError, OSError):
        return False
    return True
