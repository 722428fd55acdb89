"""Finishes a replacement that this user began on this machine, from the bundle's pending folder (atomic_replace.py).

Nothing is moved or deleted before everything was checked: the token (journal.py), the manifest as strictly as on
opening, every file and its size, and that there is no symbolic link.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from ...errors import BundleError
from . import journal
from .folders import locked, sync
from .held import check_file
from .manifest import BUILDING, MANIFEST, OURS, PENDING, Manifest
from .reader import parse_manifest


def recover(out: Path) -> bool:
    """Finish a replacement that was interrupted; returns whether there was one.

    Raises:
        BundleError: somebody else began it, it is damaged, or this process may not write there. Only in the last case
            can a part of it already be moved.
    """
    pending = out / PENDING
    if not os.path.lexists(pending):
        return False
    if not journal.is_ours(out):
        raise journal.refusal(out)
    try:
        with locked(pending, wait=True):
            # Another process may have finished it while this one waited for the lock.
            if os.path.lexists(pending):
                finish(pending, out)
    except OSError as error:
        raise BundleError(
            f"the bundle is in the middle of being replaced, and that cannot be finished: {error.strerror}",
            where=str(out),
            fix="Run `tokexport verify` on it as a user who can write there.",
        ) from None
    return True


def finish(pending: Path, out: Path) -> None:
    """Move the new bundle up; every step can be repeated, and the manifest is moved last.

    Raises:
        BundleError: the pending bundle is not complete; nothing was moved.
        OSError: a step cannot be done.
    """
    token = journal.token(pending)
    # Without a manifest everything was moved already.
    if os.path.lexists(pending / MANIFEST):
        new = set(_checked(pending, out).files)
        # A reader that does not check for pending replacements must not find the old manifest with new files.
        (out / MANIFEST).unlink(missing_ok=True)
        _delete_all_but(new, out)
        for name in sorted(new):
            if (pending / name).exists():
                (out / name).parent.mkdir(parents=True, exist_ok=True)
                (pending / name).replace(out / name)
        sync(out)
        (pending / MANIFEST).replace(out / MANIFEST)
        sync(out)
    discard(pending)
    journal.forget(out, token)


def discard(pending: Path) -> None:
    """Delete a pending folder, or a file or link of its name; the token last, so that `is_ours` holds to the end."""
    if pending.is_symlink() or not pending.is_dir():
        pending.unlink(missing_ok=True)
        return
    for path in pending.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != journal.TOKEN:
            path.unlink()
    (pending / journal.TOKEN).unlink(missing_ok=True)
    pending.rmdir()


def _checked(pending: Path, out: Path) -> Manifest:
    """The manifest of the pending bundle; checks that each of its files is there or was already moved up."""
    try:
        for base, folders, names in os.walk(pending):
            for path in (Path(base, name) for name in (*folders, *names)):
                if path.is_symlink():
                    raise BundleError(f"{path.relative_to(pending)} is a symbolic link")
        check_file(pending, MANIFEST)
        manifest = parse_manifest((pending / MANIFEST).read_bytes(), pending / MANIFEST)
        for name, record in manifest.files.items():
            if name == MANIFEST or name.startswith(OURS):
                raise BundleError(f"{MANIFEST} lists {name}, which is a reserved name")
            check_file(pending if os.path.lexists(pending / name) else out, name, record.size)
    except BundleError as error:
        raise BundleError(
            f"the bundle is in the middle of being replaced by one that is damaged: {error.what}",
            where=str(pending),
            fix=f"If nothing is writing it: {journal.cure(out)}",
        ) from None
    return manifest


def _delete_all_but(kept: set[str], out: Path) -> None:
    spared = {PENDING, *(path.name for path in out.glob(f"{BUILDING}*"))}
    for base, folders, names in os.walk(out):
        links = [name for name in folders if Path(base, name).is_symlink()]
        if base == str(out):
            folders[:] = [name for name in folders if name not in spared]
        for name in (*names, *links):
            path = Path(base, name)
            if path.relative_to(out).as_posix() not in kept:
                path.unlink()
    # From the leaves up; folders that are not empty stay.
    for base, _, _ in sorted(os.walk(out), reverse=True):
        if base != str(out) and Path(base).relative_to(out).parts[0] not in spared:
            with contextlib.suppress(OSError):
                Path(base).rmdir()
