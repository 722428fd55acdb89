"""The plugin library: build it on this machine, find it, see what is really in it, and load it.

A build is kept under the hash of all that went into it, in the user's cache folder; one that was built elsewhere is
named by the environment variable TOKEXPORT_PLUGINS.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MissingError
from .architectures import runs_on
from .compile import SOURCES, Step, compile_target, configure, sources

if TYPE_CHECKING:
    import onnx_ir as ir

    from .abi import Library

VARIABLE = "TOKEXPORT_PLUGINS"
COMMAND = "tokexport plugins build"
_PLUGINS, _KERNELS, _FACTS = "tokexport_plugins", "tokexport_kernels", "build.json"
_CONTENT = "sha256"


def build(
    *,
    architectures: str = "native",
    include: Path | None = None,
    kernels_only: bool = False,
    step: Step = lambda text: None,
) -> Path:
    """Build the library for this machine, unless this very build is there already.

    Args:
        architectures: ``native`` for the GPU of this machine, ``all`` for those of every device we know, or compute
            capabilities such as ``87`` or ``87;120``.
        include: the folder of NvInfer.h; None where CMake shall look, in TENSORRT_INCLUDE_DIR and the usual places.
        kernels_only: without the plugins, which needs no TensorRT headers: enough for the plugins in Python.
        step: hears what is going on.

    Returns:
        The library, which `find` finds from now on.

    Raises:
        RequestError: `architectures` or `include` is wrong; see `compile.configure`.
        MissingError: no CMake, CUDA compiler, headers or GPU, named with what gets it; or a compiler refuses; or no
            folder to keep the library in.
    """
    target = _KERNELS if kernels_only else _PLUGINS
    with _scratch() as folder:
        step("looking for CUDA and TensorRT")
        facts = configure(folder, architectures, include)
        if not kernels_only and "tensorrt" not in facts:
            raise MissingError(
                "there are no TensorRT headers (NvInfer.h) on this machine",
                fix="On a Jetson run: sudo apt-get install nvidia-jetpack. Elsewhere: sudo apt-get install "
                "libnvinfer-headers-dev, or take include/ of github.com/NVIDIA/TensorRT at the tag of your TensorRT, "
                f"and {COMMAND} --include FOLDER",
            )
        facts = {**facts, "target": target, "sources": _hash_of_sources()}
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
        kept = cache() / digest
        if _library(kept) is None:
            made = compile_target(folder, target, step)
            new = folder / "kept"
            new.mkdir()
            shutil.copy2(made, new)
            (new / _FACTS).write_text(json.dumps({**facts, _CONTENT: _hash(made)}, indent=2))
            with contextlib.suppress(OSError):  # another process was quicker
                if kept.exists() and _library(kept) is None:
                    kept.rename(folder / "damaged")
                new.rename(kept)
        os.utime(kept)  # the one that was asked for last is the one to find
        return kept / f"lib{target}.so"


def find(*, kernels_only: bool = False) -> Path | None:
    """The library to use: the one TOKEXPORT_PLUGINS names, or the last one that was built from these sources.

    Args:
        kernels_only: one without plugins is enough.

    Raises:
        MissingError: TOKEXPORT_PLUGINS names no file.
    """
    named = os.environ.get(VARIABLE)
    if named:
        if not Path(named).is_file():
            raise MissingError(f"{VARIABLE} names {named}, which is not there", fix=f"Unset it, and run: {COMMAND}")
        return Path(named)
    now, found = _hash_of_sources(), []
    for facts in cache().glob(f"*/{_FACTS}"):
        record = _record(facts.parent)
        if record.get("sources") != now or not (kernels_only or record["target"] == _PLUGINS):
            continue
        if library := _library(facts.parent):
            found.append((record["target"] == _PLUGINS, facts.parent.stat().st_mtime, library))
    return max(found)[2] if found else None


def creators(library: Path) -> list[str]:
    """The plugins that are really in a library, as it says itself: TokexportApet, ...; none in one with kernels only.

    Raises:
        MissingError: it cannot be loaded.
    """
    dll = _opened(library).dll
    if not hasattr(dll, "tokexport_plugin_names"):
        return []
    dll.tokexport_plugin_names.restype = ctypes.c_char_p
    return sorted(dll.tokexport_plugin_names().decode().split())


def require_code(library: Path, compute_capability: str) -> None:
    """Check that a library was compiled for a GPU: one that was not fails at its first kernel.

    Args:
        library: as `find` gives it.
        compute_capability: such as ``8.7``.

    Raises:
        MissingError: it was not, or it cannot be loaded.
    """
    there = _opened(library).architectures()
    if not runs_on(there, compute_capability):
        raise MissingError(
            f"the plugin library is compiled for {', '.join(there)}, and this GPU has compute capability "
            f"{compute_capability}",
            where=str(library),
            fix=cure(),
        )


def needed(model: ir.Model) -> list[str]:
    """The plugins that a graph cannot do without: the operators of its compressors that have no body."""
    from ..graph_passes.forms import compressor_nodes

    return sorted({node.op_type for node in compressor_nodes(model) if node.op_identifier() not in model.functions})


def require(model: ir.Model) -> Path:
    """The library, which has every plugin that this graph needs.

    Raises:
        MissingError: no library, or one that lacks some of them.
    """
    wanted, library = needed(model), find()
    if library is None:
        raise MissingError(
            f"there is no plugin library on this machine, and {', '.join(wanted)} come from it", fix=f"Run: {COMMAND}"
        )
    lacking = sorted({*wanted} - {*creators(library)})
    if lacking:
        raise MissingError(
            f"the plugin library has no {', '.join(lacking)}",
            where=str(library),
            fix=cure(),
        )
    return library


def load(trt: Any, library: Path, names: Iterable[str]) -> None:
    """Make the plugins of a library known to TensorRT.

    Args:
        trt: the module `tensorrt` or `tensorrt_rtx`.
        library: as `require` gives it.
        names: operators that must be known then.

    Raises:
        MissingError: TensorRT does not take the library, or does not find them in it.
    """
    wanted = {*names}
    if not wanted <= registered(trt):
        trt.get_plugin_registry().load_library(str(library))
    unknown = sorted(wanted - registered(trt))
    if unknown:
        raise MissingError(
            f"{trt.__name__} {trt.__version__} finds no {', '.join(unknown)} in the plugin library",
            where=str(library),
            fix=f"Build it again with the headers of that version: {COMMAND} --include FOLDER",
        )


def registered(trt: Any) -> set[str]:
    """Our plugins that TensorRT knows in this process."""
    from ..graph_passes.forms import PLUGIN_NAMESPACE, PLUGIN_VERSION

    # Asking for a creator that is not there is an error in TensorRT's log.
    creators = trt.get_plugin_registry().all_creators
    ours = (PLUGIN_VERSION, PLUGIN_NAMESPACE)
    return {one.name for one in creators if (one.plugin_version, one.plugin_namespace) == ours}


def cure() -> str:
    """What to type where the library lacks something; one that TOKEXPORT_PLUGINS names is used before any build."""
    return f"Unset {VARIABLE}, and run: {COMMAND}" if os.environ.get(VARIABLE) else f"Run: {COMMAND}"


def cache() -> Path:
    """The folder that builds are kept in."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "tokexport" / "plugins"


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """A folder in the cache that is gone afterwards."""
    try:
        cache().mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(dir=cache(), prefix=".build-")
    except OSError as error:
        raise MissingError(
            f"there is no folder to keep the plugin library in: {error.strerror or error}",
            where=str(cache()),
            fix="Set XDG_CACHE_HOME to a folder that you can write.",
        ) from error
    with scratch as folder:
        yield Path(folder)


def _opened(library: Path) -> Library:
    from .abi import Library

    try:
        return Library(library)
    except MissingError as error:
        raise MissingError(error.what, where=error.where, fix=cure()) from None


def _record(folder: Path) -> dict[str, str]:
    """What a build was made of, empty where that cannot be read."""
    try:
        record = json.loads((folder / _FACTS).read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) and {"sources", "target", _CONTENT} <= record.keys() else {}


def _library(folder: Path) -> Path | None:
    """The library of a build; None where its file is missing or damaged: `build` then makes it again."""
    record = _record(folder)
    path = folder / f"lib{record.get('target')}.so"
    return path if path.is_file() and _hash(path) == record[_CONTENT] else None


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _hash_of_sources() -> str:
    digest = hashlib.sha256()
    for path in sources():
        digest.update(f"{path.relative_to(SOURCES)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()
