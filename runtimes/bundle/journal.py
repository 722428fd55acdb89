"""Which replacements this user began on this machine, as opposed to those that came with a copied folder.

Finishing a replacement moves and deletes files. A copied or unpacked bundle can hold a `.tokexport-commit` that anybody
made. So a replacement is only finished where its token is also in this user's state folder, which is outside of all
bundles: ``$XDG_STATE_HOME/tokexport/replacements``, by default under ``~/.local/state``.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shlex
from pathlib import Path

from ...errors import BundleError
from .manifest import MANIFEST, OURS, PENDING

TOKEN = OURS + "token"


def note(out: Path, folder: Path) -> None:
    """Write a new token into `folder`, which will be the pending one of `out`, and into the state folder.

    Raises:
        BundleError: the state folder cannot be written.
    """
    token = secrets.token_hex(16)
    try:
        file = _file(out)
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(file, token)
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise BundleError(
            f"this file system replaces a bundle in several steps, and their begin cannot be recorded: {reason}",
            where=str(out),
            fix="Set XDG_STATE_HOME to a folder that you can write, or name a new folder with -o.",
        ) from None
    _write(folder / TOKEN, token)


def forget(out: Path, token: str) -> None:
    """Remove a replacement that has ended from the state folder; a later one with another token stays."""
    with contextlib.suppress(OSError, RuntimeError):
        if _read(_file(out)) == token:
            _file(out).unlink()


def token(pending: Path) -> str:
    """The token of a pending folder; empty where it has none."""
    return _read(pending / TOKEN)


def is_ours(out: Path) -> bool:
    """Whether this user began what is pending in `out` on this machine; an empty pending folder counts too."""
    pending = out / PENDING
    if pending.is_symlink() or not pending.is_dir():
        return False
    try:
        if not any(pending.iterdir()):
            return True
        found = token(pending)
        return bool(found) and found == _read(_file(out))
    except (OSError, RuntimeError):
        return False


def refusal(out: Path) -> BundleError:
    """The error for a bundle with a pending replacement, and what to type."""
    if is_ours(out):
        return BundleError(
            "the bundle is in the middle of being replaced",
            where=str(out),
            fix=f"Try again; if nothing is writing it, finish it: tokexport verify {shlex.quote(str(out))}",
        )
    return BundleError(
        "the bundle holds a replacement that was not begun by you on this machine, so it is not finished",
        where=str(out / PENDING),
        fix=f"If nothing is writing it: {cure(out)}",
    )


def cure(out: Path) -> str:
    """How to remove an unfinished pending folder: the older bundle is complete as long as its manifest is there."""
    again = "export it again with --force"
    if not (out / MANIFEST).is_file():
        return f"{again}."
    return f"{again}, or keep the bundle that is there: rm -r {shlex.quote(str(out / PENDING))}"


def _file(out: Path) -> Path:
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    name = hashlib.sha256(os.fsencode(os.path.realpath(out))).hexdigest()
    return Path(base) / "tokexport" / "replacements" / name


def _read(file: Path) -> str:
    # Opening anything but a file, for example a pipe, could block for ever.
    if file.is_symlink() or not file.is_file():
        return ""
    with file.open("rb") as stream:
        return stream.read(64).decode("ascii", "replace")


def _write(file: Path, token: str) -> None:
    with file.open("w", encoding="ascii") as stream:
        stream.write(token)
        stream.flush()
        os.fsync(stream.fileno())
