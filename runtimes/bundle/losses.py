"""Guards what a result may overwrite: never a part of its source, and no foreign file without naming it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from ...errors import BundleError
from .target import foreign_files

# Of a folder whose files are about to be deleted: the folder, and the names.
Announce = Callable[[Path, Sequence[str]], None]

_LINKS = 40  # As many as Linux follows in one path.


def refuse_loss(replaced: Path, sources: Iterable[Path]) -> None:
    """Refuse to replace a file, or a folder with its content, where that deletes a part of a source.

    A part of a source is the file itself, everything inside a folder, and each symbolic link on the path to it. It is
    recognised under every name: through links, as a hard link, and through another mount. A bundle inside a source
    folder is no part of the source, but other files beside the bundle are.

    Args:
        replaced: a path, which need not exist.
        sources: the files and folders that the result is made of.

    Raises:
        BundleError: names the file that would be lost.
    """
    if not os.path.lexists(replaced):
        return
    place = Path(os.path.realpath(replaced))
    held = {_identity(path) for path in _tree(place)} - {None}
    for source in sources:
        _refuse_from_inside(place, source)
        for path in _tree(source, but=_identity(place)):
            for entry in _passed(path):
                if _identity(entry) in held:
                    raise _loss(place, path)


def name_deleted(folder: Path, names: Sequence[str], most: int | None = 10) -> None:
    """Print on stderr which foreign files of a folder are about to be deleted.

    Args:
        folder: that contains them.
        names: relative paths.
        most: names to give where there are more than that; None: all.
    """
    shown = names[:most]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    files = "1 file" if len(names) == 1 else f"{len(names)} files"
    print(
        f"--force: the bundle replaces all of {folder} and deletes {files} that tokexport did not write: "
        f"{', '.join(shown)}{more}",
        file=sys.stderr,
        flush=True,
    )


def _refuse_from_inside(place: Path, source: Path) -> None:
    """Where `place` is inside a source folder, everything in it that no bundle contains belongs to the source."""
    if not source.is_dir() or Path(os.path.realpath(source)) not in place.parents:
        return
    foreign = foreign_files(place) if place.is_dir() else [""]
    if foreign:
        raise _loss(place, place / foreign[0])


def _tree(path: Path, but: tuple[int, int] | None = None) -> Iterator[Path]:
    """A path and everything inside it; links are not followed, except `path` itself."""
    yield path
    for base, folders, names in os.walk(path):
        folders[:] = [name for name in folders if but is None or _identity(Path(base, name)) != but]
        yield from (Path(base, name) for name in (*folders, *names))


def _passed(path: Path) -> Iterator[Path]:
    """Each symbolic link on the path, resolved to where that link is, and finally the real path."""
    ahead, here, followed = list((Path.cwd() / path).parts), Path("/"), 0
    while ahead:
        part = ahead.pop(0)
        entry = here.parent if part == ".." else here / part
        if entry.is_symlink() and followed < _LINKS:
            followed += 1
            yield entry
            ahead = [*entry.readlink().parts, *ahead]
        else:
            here = entry
    yield here


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode: equal for all names of one file or folder; None where it does not exist."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _loss(place: Path, lost: Path) -> BundleError:
    kind = "folder" if place.is_dir() else "file"
    return BundleError(
        f"the result would replace this {kind}, and with it delete what it is made of: {lost}",
        where=str(place),
        fix="Name another one with -o; --force does not change that.",
    )
