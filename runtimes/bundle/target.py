"""Which folders a bundle may be written to: checked before any work is done."""

from __future__ import annotations

import json
import os
import secrets
import shlex
from pathlib import Path
from typing import Any

from ...errors import BundleError
from ...files import utf8_name
from .manifest import BUILDING, MANIFEST, OURS, PENDING
from .recovery import recover

ENGINES = "engines"
PROBING = OURS + "probe-"


def failed_path(out: Path) -> Path:
    """Where a result whose proof failed is written: ``<out>.failed``, beside `out`."""
    return out.with_name(out.name + ".failed")


def check_target(out: Path | str, *, force: bool = False) -> Path:
    """Check that a bundle can be written to `out`, and its failed result beside it.

    A replacement of either that was interrupted is finished first.

    Args:
        out: a new or empty folder, or one that holds only a bundle.
        force: also accept a folder that holds other files; its whole content is deleted when the bundle is written.

    Returns:
        The absolute path, links resolved.

    Raises:
        RequestError: the path is no UTF-8, in which other libraries take it.
        BundleError: the parent is missing or not writable. Or `out` is a file, or holds files that tokexport did not
            write, or is the current folder, a home folder, a repository, or a parent of one of them. Without `force`
            also where it holds a replacement that is damaged or that somebody else began. The same holds for the failed
            result, which may not be a link either.
    """
    path = Path(os.path.realpath(out))
    utf8_name(path)
    _check_guarded(path)
    _check_guarded(failed_path(path))
    if not path.parent.is_dir():
        what = "is not a folder" if path.parent.exists() else "does not exist"
        raise BundleError(
            f"the parent folder {what}",
            where=str(path.parent),
            fix=f"mkdir -p {shlex.quote(str(path.parent))}, or use -o.",
        )
    for target in (path, failed_path(path)):
        check_replaceable(target, force)
    _check_writable(staging_parent(path))
    return path


def staging_parent(out: Path) -> Path:
    """The folder in which the new bundle is built: beside `out`, or inside it where `out` is a mount point."""
    return out if os.path.ismount(out) else out.parent


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The parsed manifest of a folder that holds a bundle of any version; None for every other folder."""
    try:
        data = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(data, dict) or not {"schema", "tokexport"} <= data.keys():
        return None
    return data if isinstance(data.get("files"), dict) else None


def foreign_files(folder: Path) -> list[str]:
    """Files and links in a folder that tokexport did not write, as relative paths; engines are its own."""
    manifest = read_manifest(folder)
    known = {MANIFEST, *manifest["files"]} if manifest else set()
    found = []
    for base, folders, names in os.walk(folder):
        if base == str(folder):
            folders[:] = [name for name in folders if not _is_ours(folder / name)]
        links = [name for name in folders if Path(base, name).is_symlink()]
        paths = [Path(base, name).relative_to(folder) for name in (*names, *links)]
        found += [
            path.as_posix() for path in paths if path.as_posix() not in known and not (manifest and _is_engine(path))
        ]
    return sorted(found)


def _is_ours(path: Path) -> bool:
    """Whether a folder at the top level is one that tokexport made, whatever it contains; a link never is."""
    made = path.name == PENDING or path.name.startswith((BUILDING, PROBING))
    return made and not path.is_symlink()


def _is_engine(path: Path) -> bool:
    """Whether a path in a bundle belongs to the engines: an engine, its sidecar, a cache, or a scratch file."""
    scratch = any(part.startswith(OURS) for part in path.parts)
    ours = len(path.parts) == 3 and path.suffix in (".plan", ".json", ".cache")
    return path.parts[0] == ENGINES and (scratch or ours)


def _check_guarded(folder: Path) -> None:
    for guarded in (Path.cwd(), Path.home()):
        real = Path(os.path.realpath(guarded))
        if folder in (real, *real.parents):
            raise BundleError(
                "a bundle replaces its whole folder, and this one holds more than a bundle",
                where=str(folder),
                fix="Name a folder of its own: -o NAME.",
            )


def check_replaceable(folder: Path, force: bool) -> list[str]:
    """Check that a bundle may replace a folder, see `check_target`; returns the `foreign_files` that this deletes."""
    if folder.is_symlink():
        # This is the failed result: the links of the output itself were resolved.
        raise BundleError(
            "a failed result would be written there, and it is a symbolic link",
            where=str(folder),
            fix=f"Delete the link, rm {shlex.quote(str(folder))}, or name another folder with -o.",
        )
    if not folder.exists():
        return []
    if not folder.is_dir():
        raise BundleError("the output is a file, not a folder", where=str(folder), fix="Name another folder with -o.")
    if (folder / ".git").exists():
        raise BundleError(
            "the output folder is a git repository, and a bundle replaces its whole folder",
            where=str(folder),
            fix="Write the bundle into a new folder inside it: -o NAME.",
        )
    try:
        recover(folder)
    except BundleError:
        if not force:
            raise
    foreign = foreign_files(folder)
    repository = next((name for name in foreign if ".git" in Path(name).parts), None)
    if repository:
        raise BundleError(
            f"the output folder holds a git repository: {repository}",
            where=str(folder),
            fix="Name another folder with -o; --force does not change that.",
        )
    if foreign and not force:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise BundleError(
            f"the output folder holds files that tokexport did not write: {foreign[0]}{more}",
            where=str(folder),
            fix="Name another folder with -o, or add --force to delete everything in this one.",
        )
    return foreign


def _check_writable(folder: Path) -> None:
    """Try to write, because permission bits do not tell about read-only mounts, quotas or root."""
    probe = folder / f"{PROBING}{secrets.token_hex(4)}"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        raise BundleError(
            f"cannot write there: {error.strerror}", where=str(folder), fix="Name a folder you can write with -o."
        ) from None
