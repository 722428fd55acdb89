"""Replaces a bundle in one step: whoever opens it finds the old one or the new one, never half of either.

The new bundle is built in a hidden folder on the same file system. Where the kernel can exchange two folders
(renameat2), that is the one step. Elsewhere (NFS, some FUSE and overlay mounts, a folder that is a mount point) the
complete new folder is renamed into the old one as ``.tokexport-commit``: from then on the new bundle counts. Its files
are moved up one by one, the manifest last; if that is interrupted, `recover` finishes it on the next opening.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import glob
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from ..errors import BundleError
from .bundle import MANIFEST
from .target import OURS, staging_parent

PENDING = OURS + "commit"
_STALE_AFTER = 60.0

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_CANNOT = {errno.ENOSYS, errno.EINVAL, errno.EBUSY, errno.EXDEV, errno.ENOTSUP, errno.EPERM}


@contextlib.contextmanager
def staging(out: Path) -> Iterator[Path]:
    """A hidden folder on the file system of `out`, removed with all it still holds when the block ends.

    What a killed process left behind for the same `out` is removed first.
    """
    prefix = f"{OURS}build-" if staging_parent(out) == out else f".{out.name}{OURS}"
    for stale in staging_parent(out).glob(f"{glob.escape(prefix)}*"):
        _remove_stale(stale)
    folder = staging_parent(out) / f"{prefix}{secrets.token_hex(4)}"
    folder.mkdir()
    try:
        with _locked(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def replace(folder: Path, out: Path) -> None:
    """Make `out` be what `folder`, a complete bundle from `staging`, is now; the old content of `out` is deleted."""
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
    """Swap two folders in one step; false, and nothing done, where the system cannot."""
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


def recover(out: Path) -> bool:
    """Finish a replacement that was interrupted; returns whether there was one.

    Raises:
        BundleError: there is one, and this process may not write there.
    """
    pending = out / PENDING
    if not pending.is_dir():
        return False
    try:
        with _locked(pending, wait=True):
            _roll_forward(pending, out)
    except OSError as error:
        raise BundleError(
            f"the bundle is in the middle of being replaced, and that cannot be finished: {error.strerror}",
            where=str(out),
            fix="Open it once as a user who can write there, for example with `tokexport verify`.",
        ) from None
    return True


def sync(folder: Path) -> None:
    """Write a folder's entries to the disk; its files were synced when they were closed."""
    descriptor = os.open(folder, os.O_RDONLY)
    # Some network file systems cannot sync folders; there is nothing else to call there.
    with contextlib.suppress(OSError):
        os.fsync(descriptor)
    os.close(descriptor)


def _hand_over(folder: Path, out: Path) -> None:
    """Make `folder` the pending folder inside `out`, by way of a copy where `out` is another mount, and finish it."""
    out.mkdir(exist_ok=True)
    pending, copied = out / PENDING, False
    try:
        folder.rename(pending)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        copied = True
        copy = out / f"{OURS}build-{secrets.token_hex(4)}"
        try:
            shutil.copytree(folder, copy)
            copy.rename(pending)
        finally:
            shutil.rmtree(copy, ignore_errors=True)
    sync(out)
    # The lock of `staging` moved along with the renamed folder: waiting for it would be waiting for ourselves.
    with _locked(pending, wait=copied):
        _roll_forward(pending, out)


def _roll_forward(pending: Path, out: Path) -> None:
    """Move the new bundle up; every step can be repeated, and the manifest goes last."""
    # Without a manifest everything was moved already, here or by a process that this one waited for.
    if (pending / MANIFEST).is_file():
        new = set(json.loads((pending / MANIFEST).read_bytes())["files"])
        # A reader that knows nothing of this must not find the old manifest over new files.
        (out / MANIFEST).unlink(missing_ok=True)
        _delete_all_but(new, out)
        for name in sorted(new):
            if (pending / name).exists():
                (out / name).parent.mkdir(parents=True, exist_ok=True)
                (pending / name).replace(out / name)
        sync(out)
        (pending / MANIFEST).replace(out / MANIFEST)
        sync(out)
    shutil.rmtree(pending, ignore_errors=True)


def _delete_all_but(kept: set[str], out: Path) -> None:
    for base, folders, names in os.walk(out):
        folders[:] = [name for name in folders if not name.startswith(OURS)]
        for name in (*names, *(link for link in folders if Path(base, link).is_symlink())):
            path = Path(base, name)
            if path.relative_to(out).as_posix() not in kept:
                path.unlink()
    # From the leaves up; those that still hold something stay.
    for base, _, _ in sorted(os.walk(out), reverse=True):
        if base != str(out) and not Path(base).relative_to(out).parts[0].startswith(OURS):
            with contextlib.suppress(OSError):
                Path(base).rmdir()


@contextlib.contextmanager
def _locked(folder: Path, wait: bool = False) -> Iterator[bool]:
    """Hold a lock on a folder; yields whether it could be had. The kernel drops it when the process dies."""
    descriptor = os.open(folder, os.O_RDONLY)
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


def _remove_stale(folder: Path) -> None:
    with contextlib.suppress(OSError):
        # A folder is unlocked for a moment after it was made.
        if time.time() - folder.stat().st_mtime < _STALE_AFTER:
            return
        with _locked(folder) as free:
            if free:
                shutil.rmtree(folder, ignore_errors=True)
