"""What an open bundle holds: which file each name of the manifest meant when it was opened.

Graphs are read when they are first run, perhaps long after the manifest. A bundle that was replaced in between would
mix old and new. So each file is compared with what was found on opening before it is read, and again afterwards.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ...errors import BundleError
from ...files import open_regular

AGAIN = "Export it again, or copy it again in full."
_CHUNK = 1 << 20


class Identity(NamedTuple):
    """One file as it was at one moment: any write, and any other file in its place, gives another identity."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int


def identity_of(status: os.stat_result) -> Identity:
    """The identity in the status of a file."""
    return Identity(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def check_file(folder: Path, name: str, size: int | None = None) -> Identity:
    """Check that a file is regular, is reached through no symbolic link, and has the given size, if any.

    Raises:
        BundleError: one of these does not hold.
    """
    path, status = folder, None
    # A link in any part of the path could lead out of the folder.
    for part in Path(name).parts:
        path = path / part
        status = _status(folder, name, path)
        if status is not None and stat.S_ISLNK(status.st_mode):
            raise _linked(folder, name)
    if status is None:
        raise BundleError(f"{name} is missing", where=str(folder), fix=AGAIN)
    if not stat.S_ISREG(status.st_mode):
        raise BundleError(f"{name} is no regular file", where=str(folder), fix=AGAIN)
    if size is not None and status.st_size != size:
        raise BundleError(f"{name} has {status.st_size} bytes, not {size}", where=str(folder), fix=AGAIN)
    return identity_of(status)


def open_file(folder: Path, name: str) -> BinaryIO:
    """Open a file of a bundle for reading, see `check_file`.

    Raises:
        BundleError: it is missing, no regular file, or reached through a link.
    """
    check_file(folder, name)
    try:
        return open_regular(folder / name, follow=False)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _linked(folder, name) from None
        raise BundleError(f"{name} cannot be read: {error.strerror}", where=str(folder), fix=AGAIN) from None


def sha256(folder: Path, name: str) -> str:
    """Of a file of a bundle; errors as `open_file`."""
    digest = hashlib.sha256()
    with open_file(folder, name) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def is_held(folder: Path, name: str, held: Identity | None, wanted: str) -> bool:
    """Whether a file is still the one that was found on opening, or another with the same content.

    Args:
        folder: of the bundle.
        name: of the file.
        held: its identity on opening; None where that is not known.
        wanted: the manifest's SHA-256. The file is read where its identity differs, as after a copy or a backup.
    """
    return check_file(folder, name) == held or sha256(folder, name) == wanted


def _status(folder: Path, name: str, path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "no file can have this name"
        raise BundleError(f"{name[:80]!r} cannot be read: {why}", where=str(folder), fix=AGAIN) from None


def _linked(folder: Path, name: str) -> BundleError:
    return BundleError(
        f"{name} is a symbolic link, which ONNX Runtime refuses",
        where=str(folder),
        fix=f"Copy the bundle with its files: cp -rL {folder} NEW",
    )
