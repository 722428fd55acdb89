"""Results that were computed before, kept in the user's cache folder so that they need not be computed again.

``$XDG_CACHE_HOME/tokexport``, by default under ``~/.cache``, has a folder for each kind of result and in it a file for
each, named by the hash of its key. The key is all that the result depends on, this package's code and the versions of
what runs it included. A file that is damaged, of another key or a link is not read, and is written again; where nothing
can be written the result is computed each time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import stat
import tempfile
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

# Bytes of one file, and files of one kind: the one that was used least recently makes room.
_LARGEST = 16 << 20
_MOST = 100
_RUN_BY = ("numpy", "onnx", "onnx-ir", "onnxruntime", "onnxscript", "torch")


def key_of(parts: Mapping[str, Any]) -> str:
    """The key of a result: `parts`, JSON, is all that it depends on but code and versions, which are added here."""
    return json.dumps({**parts, "code": _code(), "versions": _versions()}, sort_keys=True)


def read(kind: str, key: str) -> bytes | None:
    """What is kept for a key, or None."""
    file = _file(kind, key)
    try:
        if not _plain(file.parent):
            return None
        # Without O_NONBLOCK a pipe of that name would be waited for.
        handle = os.open(file, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(handle, "rb") as stream:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                return None
            check, _, data = stream.read(_LARGEST + 100).partition(b"\n")
        if check != _check(key, data):
            return None
        with contextlib.suppress(OSError):
            os.utime(file)
        return data
    except OSError:
        return None


def write(kind: str, key: str, data: bytes) -> None:
    """Keep `data` for a key, in one step; a cache that cannot be written costs time and nothing else."""
    file = _file(kind, key)
    if len(data) > _LARGEST:
        return
    with contextlib.suppress(OSError):
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _plain(file.parent):
            return
        _make_room(file.parent)
        handle, scratch = tempfile.mkstemp(dir=file.parent, prefix=".", suffix=".new")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(_check(key, data) + b"\n" + data)
            Path(scratch).replace(file)
        except OSError:
            Path(scratch).unlink(missing_ok=True)
            raise


def _check(key: str, data: bytes) -> bytes:
    return hashlib.sha256(key.encode() + b"\n" + data).hexdigest().encode()


def _file(kind: str, key: str) -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    folder = (Path(base) if base else Path("~/.cache")).expanduser() / "tokexport" / kind
    return folder / hashlib.sha256(key.encode()).hexdigest()


def _plain(folder: Path) -> bool:
    """Whether a folder of ours is one, and no link to another."""
    return all(not path.is_symlink() and path.is_dir() for path in (folder.parent, folder))


def _make_room(folder: Path) -> None:
    kept = sorted(folder.iterdir(), key=lambda file: file.lstat().st_mtime)
    for file in kept[: max(0, len(kept) - _MOST + 1)]:
        file.unlink(missing_ok=True)


@cache
def _code() -> str:
    """SHA-256 of this package's modules: after any change of them everything is computed again."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for folder in ("exporter", "graph_passes", "runtimes"):
        for file in sorted((root / folder).rglob("*.py")):
            digest.update(f"{file.relative_to(root).as_posix()}\0".encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


@cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"}
    for name in _RUN_BY:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
