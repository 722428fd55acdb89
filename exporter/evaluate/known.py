"""Figures that were measured before, kept in the user's cache folder so that they need not be measured again.

``$XDG_CACHE_HOME/tokexport/figures``, by default under ``~/.cache``, holds a JSON file for each figure, named by the
hash of its key. The key is all that the figure depends on, this package's code and the versions of what runs it
included. A file that is damaged, of another key or a link is not read, and is written again; where nothing can be
written the figure is measured each time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import stat
import tempfile
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..sources.source import Question

_LARGEST = 1 << 16
_RUN_BY = ("numpy", "onnx-ir", "onnxruntime", "torch")
_memory: dict[str, Any] = {}


def figure(key: Mapping[str, Any], measure: Callable[[], Any]) -> Any:
    """The figure of a key: one that is known, or what `measure` finds, which is known from then on.

    Args:
        key: all that the figure depends on but code and versions, which are added here; JSON.
        measure: finds it: JSON without NaN.
    """
    whole = json.dumps({**key, "code": _code(), "versions": _versions()}, sort_keys=True)
    name = hashlib.sha256(whole.encode()).hexdigest()
    if name not in _memory:
        file = _folder() / f"{name}.json"
        found = _read(file, whole)
        if found is None:
            found = measure()
            _write(file, json.dumps(_entry(whole, found), allow_nan=False))
        _memory[name] = json.dumps(found)
    # A copy: whoever gets it may change it.
    return json.loads(_memory[name])


def graph_hash(model: ir.Model) -> str:
    """SHA-256 of a graph with its weights, wherever they are kept."""
    import onnx_ir as ir

    digest = hashlib.sha256()
    for node in model.graph:
        digest.update(ir.to_proto(node).SerializeToString(deterministic=True))
    for name, value in model.graph.initializers.items():
        digest.update(name.encode())
        if value.const_value is not None:
            digest.update(value.const_value.tobytes())
    return digest.hexdigest()


def questions_hash(asked: Iterable[Question]) -> str:
    """SHA-256 of questions, their inputs and their answers."""
    digest = hashlib.sha256()
    for question in asked:
        words = json.dumps([question.prompt, question.answer, question.input.shape, str(question.input.dtype)])
        digest.update(words.encode())
        digest.update(question.input.tobytes())
        digest.update(question.content.tobytes())
    return digest.hexdigest()


def _entry(key: str, value: Any) -> dict[str, Any]:
    check = hashlib.sha256(json.dumps([key, value], sort_keys=True).encode()).hexdigest()
    return {"key": key, "value": value, "sha256": check}


def _folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path("~/.cache")).expanduser() / "tokexport" / "figures"


def _plain(folder: Path) -> bool:
    """Whether a folder of ours is one, and no link to another."""
    return all(not path.is_symlink() and path.is_dir() for path in (folder.parent, folder))


def _read(file: Path, key: str) -> Any:
    """The figure in a file, or None."""
    try:
        if not _plain(file.parent):
            return None
        # Without O_NONBLOCK a pipe of that name would be waited for.
        handle = os.open(file, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(handle, "rb") as stream:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                return None
            entry = json.loads(stream.read(_LARGEST))
        return entry["value"] if entry == _entry(key, entry["value"]) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _write(file: Path, text: str) -> None:
    """Put a file into the cache in one step; a cache that cannot be written costs time and nothing else."""
    folder = file.parent
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _plain(folder):
            return
        handle, scratch = tempfile.mkstemp(dir=folder, prefix=".", suffix=".new")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(text)
            Path(scratch).replace(file)
        except OSError:
            Path(scratch).unlink(missing_ok=True)
            raise


@cache
def _code() -> str:
    """SHA-256 of this package's modules: after any change of them everything is measured again."""
    root = Path(__file__).parents[2]
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
