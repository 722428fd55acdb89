"""Replaces a bundle atomically: a reader finds the old one or the new one, never half of either.

The new bundle is built in a hidden folder on the same file system. Where the kernel can exchange two folders
(renameat2), the replacement is that one call. Elsewhere (NFS, some FUSE and overlay mounts, a folder that is a mount
point) the complete new folder is renamed into the old one as ``.tokexport-commit``. From then on the new bundle is
valid, and its files are moved up one by one, the manifest last. If that is interrupted, `recovery.recover` finishes it;
`tokexport verify` and the next export to the same folder call that. Readers refuse the folder until then, and never
write.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import glob
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from ...errors import BundleError
from . import journal
from .folders import locked, sync
from .manifest import BUILDING, OURS, PENDING
from .recovery import discard, finish, recover
from .target import staging_parent

_STALE_AFTER = 60.0

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_CANNOT = {errno.ENOSYS, errno.EINVAL, errno.EBUSY, errno.EXDEV, errno.ENOTSUP, errno.EPERM}


@contextlib.contextmanager
def staging(out: Path) -> Iterator[Path]:
    """A hidden folder on the file system of `out`, removed with all it still holds when the block ends.

    What a killed process left behind for the same `out` is removed first.
    """
    prefix = BUILDING if staging_parent(out) == out else f".{out.name}{OURS}"
    for stale in staging_parent(out).glob(f"{glob.escape(prefix)}*"):
        _remove_stale(stale)
    folder = staging_parent(out) / f"{prefix}{secrets.token_hex(4)}"
    folder.mkdir()
    try:
        with locked(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def replace(folder: Path, out: Path) -> None:
    """Move `folder`, a complete bundle from `staging`, to `out`; the old content of `out` is deleted."""
    sync(folder)
    try:
        # POSIX renames onto a folder that is missing or empty, and onto no other.
        folder.rename(out)
    except OSError as error:
        if error.errno not in _CANNOT | {errno.ENOTEMPTY, errno.EEXIST}:
            raise
        if not exchange(folder, out):
            _hand_over(folder, out)
    sync(out.parent)


def exchange(a: Path, b: Path) -> bool:
    """Exchange two folders atomically; false, and nothing done, where the system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    if rename(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _CANNOT:
        return False
    raise OSError(code, os.strerror(code), str(b))


def _hand_over(folder: Path, out: Path) -> None:
    """Make `folder` the pending folder inside `out`, by a copy where `out` is another mount, and finish it."""
    out.mkdir(exist_ok=True)
    pending, copied = out / PENDING, False
    try:
        recover(out)
    except BundleError:
        # `check_target` lets it pass only where everything in the folder may be deleted.
        discard(pending)
    journal.note(out, folder)
    sync(folder)
    try:
        folder.rename(pending)
    except OSError as error:
        if error.errno != errno.EXDEV:
            journal.forget(out, journal.token(folder))
            raise
        copied = True
        copy = out / f"{BUILDING}{secrets.token_hex(4)}"
        try:
            shutil.copytree(folder, copy)
            copy.rename(pending)
        finally:
            shutil.rmtree(copy, ignore_errors=True)
    sync(out)
    # A renamed folder still has the lock of `staging`, which this process holds: waiting for it would deadlock.
    with locked(pending, wait=copied):
        finish(pending, out)


def _remove_stale(folder: Path) -> None:
    with contextlib.suppress(OSError):
        # A folder is unlocked for a moment after it was made.
        if time.time() - folder.stat().st_mtime < _STALE_AFTER:
            return
        with locked(folder) as free:
            if free:
                shutil.rmtree(folder, ignore_errors=True)
