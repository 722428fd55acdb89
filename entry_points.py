"""What other packages add to tokexport: compressors, families, recipes and devices, by entry points of their own.

    [project.entry-points."tokexport.compressors"]
    halves = "their_package.halves:Halves"

An entry that cannot be used is left out and named, with its package and the reason: one that cannot be imported, one
that is not what its group takes, and one whose name is taken. What is built in is never replaced. Of two packages that
add the same name neither is taken, because nothing says which of them is meant.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

T = TypeVar("T")


@dataclass(frozen=True)
class Skipped:
    """An entry that is left out: its group, its name (empty for all of a package), the package, and why."""

    group: str
    name: str
    package: str
    why: str

    def __str__(self) -> str:
        what = f"{self.name!r}, which package {self.package} adds" if self.name else f"what package {self.package} adds"
        return f"{what} to {self.group}, is left out: {self.why}"


@dataclass(frozen=True)
class Added(Generic[T]):
    """What a group comes to: the entries that can be used, by name, and those that are left out."""

    found: Mapping[str, T]
    skipped: tuple[Skipped, ...]


def read(
    group: str,
    *,
    built_in: Collection[str],
    accept: Callable[[str, Any], T],
    claims: Callable[[str, T], Iterable[str]] = lambda name, item: (name,),
) -> Added[T]:
    """Load the entries of a group.

    Args:
        group: such as ``tokexport.compressors``.
        built_in: what no entry may claim. An entry of such a name is not even imported.
        accept: makes of an entry's name and object what is wanted; any exception says why the object is wrong.
        claims: the names under which an accepted entry would be found.
    """
    points, skipped = _points(group)
    usable: list[tuple[str, str, T]] = []
    for package, point in points:
        try:
            if point.name in built_in:
                raise ValueError(f"the name {point.name!r} is built in")
            # What an import prints is no part of a listing, which may be JSON.
            with contextlib.redirect_stdout(sys.stderr):
                item = accept(point.name, point.load())
            taken = [name for name in claims(point.name, item) if name in built_in]
            if taken:
                raise ValueError(f"{taken[0]!r} is built in")
            usable.append((package, point.name, item))
        except (Exception, SystemExit) as error:
            skipped.append(Skipped(group, point.name, package, reason(error)))

    counts = Counter(claim for _, name, item in usable for claim in {*claims(name, item)})
    found: dict[str, T] = {}
    for package, name, item in usable:
        twice = [claim for claim in claims(name, item) if counts[claim] > 1]
        if twice:
            rivals = {other for other, key, one in usable if twice[0] in claims(key, one)} - {package}
            why = f"{twice[0]!r} is also added by {' and '.join(sorted(rivals)) or 'itself'}: uninstall all but one"
            skipped.append(Skipped(group, name, package, why))
        else:
            found[name] = item
    return Added(found, tuple(skipped))


def because(added: Added[Any], name: str) -> str:
    """Why an entry of this name is left out, as sentences with a space at the end; empty where there is none."""
    return "".join(f"{one}. " for one in added.skipped if one.name in (name, ""))


def file_of(name: str, module: Any) -> Path:
    """The file ``NAME.toml`` in the package that an entry names.

    Raises:
        TypeError: the entry is no package.
        FileNotFoundError: there is no such file in it.
    """
    folders = getattr(module, "__path__", None)
    if not folders:
        raise TypeError(f"{module!r} is no package, in which {name}.toml could lie")
    path = Path(next(iter(folders)), f"{name}.toml")
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing")
    return path


def from_file(kind: str, read: Callable[[Path], T], name: str, module: Any) -> T:
    """What `read` makes of ``NAME.toml`` in the package that an entry names.

    Args:
        kind: of what it makes, for people; it has an attribute ``name``.
        read: reads the file.
        name: of the entry.
        module: the package.

    Raises:
        ValueError: it has another name than its entry. Also what `file_of` and `read` raise.
    """
    found: Any = read(file_of(name, module))
    if found.name != name:
        raise ValueError(f"the entry is called {name!r}, and the {kind} {found.name!r}")
    return cast("T", found)


def owner(module: str) -> str:
    """Who a module belongs to, for people: the package that adds an entry from it, or the module itself."""
    top = module.partition(".")[0]
    for package, entries in _packages():
        if not isinstance(entries, str) and any(
            point.value.partition(".")[0].partition(":")[0] == top for point in entries
        ):
            return f"package {package}"
    return f"module {module}"


def _points(group: str) -> tuple[list[tuple[str, EntryPoint]], list[Skipped]]:
    """(package, entry) of a group by name, and the packages whose lists of entries cannot be read."""
    points, skipped = [], []
    for package, entries in _packages():
        if isinstance(entries, str):
            skipped.append(Skipped(group, "", package, entries))
        else:
            points += [(package, point) for point in entries if point.group == group]
    return sorted(points, key=lambda pair: (pair[1].name, pair[0])), skipped


@functools.cache
def _packages() -> tuple[tuple[str, Any], ...]:
    """The packages that add anything to tokexport: name and version, and the entries or why they cannot be read.

    `importlib.metadata.entry_points` would fail for all packages where one has a list with a malformed line.
    """
    import importlib.metadata

    packages: dict[str, tuple[str, Any]] = {}
    for distribution in importlib.metadata.distributions():
        try:
            if "[tokexport." not in (distribution.read_text("entry_points.txt") or ""):
                continue
        except (OSError, UnicodeDecodeError):
            continue
        name = distribution.metadata["Name"] or "of unknown name"
        entries: Any
        try:
            entries = list(distribution.entry_points)
        except Exception as error:
            entries = f"its entry_points.txt cannot be read ({reason(error)})"
        # Of two of one name the first on the path is the one that Python imports.
        packages.setdefault(name.lower().replace("_", "-"), (f"{name} {distribution.version}", entries))
    return tuple(packages.values())


def reason(error: BaseException) -> str:
    """The kind of an error that another package raised, and the first line of its text."""
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}".rstrip(": ")
