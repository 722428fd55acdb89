"""Engines in a bundle: engines/<device>/<variant>.<role>.plan, each with a sidecar .json that describes it.

The plan is what TensorRT serialized and nothing else. All that can be known about it without TensorRT is in the
sidecar and is checked before anything is deserialized: a plan is code, and TensorRT does not always refuse a wrong one.
Engines are a cache: the manifest does not list them, and a new export deletes them.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import os
import secrets
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from ....errors import BundleError, MissingError
from ...bundle.manifest import OURS, FileRecord, Form, Precision, Role
from ...bundle.reader import Bundle
from ...bundle.strict import LENIENT, BundlePath, Strict
from ...bundle.target import ENGINES
from ..api import Kind, title
from ..failures import EngineDeviceError, EngineError, EngineStaleError, EngineVersionError

SCHEMA = "1.0"
_CHUNK = 1 << 20


class PluginRecord(Strict):
    """The plugins inside an engine.

    Attributes:
        names: operator of every plugin node, with repeats.
        library: SHA-256 of the library of the plugins, or of their kernels; None: built without one, and cannot run.
    """

    names: list[str] = Field(default_factory=list)
    library: str | None = None


class LayerRecord(Strict):
    """A comparison of types with those of the graph; see `layers.Check`."""

    stage: Literal["network", "engine"]
    layers: int
    compared: int


class EngineRecord(Strict):
    """The sidecar of a plan.

    Attributes:
        role: of the graph.
        variant: of the bundle.
        device: name of the folder.
        form: of the graph that was built.
        precision: of the graph; the engine computes in the types of the graph.
        graph: SHA-256, as the manifest has them, of each file the engine was made of: the graph and its data.
        runtime: the TensorRT that built it; no other can load it.
        version: its version; no other can load it.
        compute_capability: of the GPU it is for.
        plan: size and SHA-256.
        plugins: in it.
        timing_cache: SHA-256 of <variant>.timing.cache beside it, which a rebuild starts from; None where the runtime
            has none.
        workspace: most bytes that a tactic might use; None: no limit.
        layers: type checks that were made; where that of the engine is missing, it is made at the first load.
    """

    schema_: str = Field(alias="schema", default=SCHEMA)
    tokexport: str
    role: Role
    variant: str
    device: str
    form: Form
    precision: Precision
    graph: dict[BundlePath, str] = Field(min_length=1)
    runtime: Kind
    version: str
    compute_capability: str
    plan: FileRecord
    plugins: PluginRecord
    timing_cache: str | None = None
    workspace: int | None = None
    layers: list[LayerRecord]


def folder(bundle: Bundle, device: str) -> Path:
    """Where the engines for a device lie."""
    return bundle.path / ENGINES / device


def plan_path(bundle: Bundle, device: str, variant: str, role: str) -> Path:
    """The plan of a role; its sidecar ends in ``.json`` instead."""
    return folder(bundle, device) / f"{variant}.{role}.plan"


def runtime_cache_path(plan: Path) -> Path:
    """The kernels that were compiled when a plan was first run; they belong to that plan alone."""
    return plan.with_suffix(".runtime.cache")


def timing_path(bundle: Bundle, device: str, variant: str) -> Path:
    """The timing cache that the engines of a variant share."""
    return folder(bundle, device) / f"{variant}.timing.cache"


def devices(bundle: Bundle, variant: str) -> list[str]:
    """The devices that there are engines for."""
    found = (bundle.path / ENGINES).glob(f"*/{glob.escape(variant)}.encoder.json")
    return sorted(path.parent.name for path in found)


def read(bundle: Bundle, device: str, variant: str, role: str) -> EngineRecord:
    """The sidecar of a role's engine.

    Raises:
        MissingError: there is no such engine.
        EngineError: the sidecar is damaged, of a newer schema, a link, or that of another engine.
    """
    path = plan_path(bundle, device, variant, role).with_suffix(".json")

    def unusable(what: str) -> EngineError:
        return EngineError(f"the sidecar of an engine {what}", where=str(path), fix=_again(bundle, variant, device))

    if not path.is_file():
        fix = _again(bundle, variant, device)
        raise MissingError(f"the bundle has no engine of {role} for {device}", where=str(path), fix=fix)
    if _is_linked(bundle, path):
        raise unusable("is a symbolic link")
    try:
        record = EngineRecord.model_validate_json(path.read_bytes(), context=LENIENT)
    except ValidationError as error:
        first = error.errors()[0]
        raise unusable(f"is damaged at {'.'.join(map(str, first['loc'])) or 'its start'}: {first['msg']}") from None
    if record.schema_.partition(".")[0] != SCHEMA.partition(".")[0]:
        raise unusable(f"has schema {record.schema_}, and this tokexport reads {SCHEMA.partition('.')[0]}.x")
    if (record.device, record.variant, record.role) != (device, variant, role):
        # Renamed, a sidecar would describe another plan.
        raise unusable(f"is that of {record.role} of {record.variant} for {record.device}")
    return record


def write(bundle: Bundle, record: EngineRecord) -> None:
    """Put the sidecar of a plan in place."""
    path = plan_path(bundle, record.device, record.variant, record.role).with_suffix(".json")
    put(path, (record.model_dump_json(by_alias=True, indent=2) + "\n").encode())


def check(
    bundle: Bundle, record: EngineRecord, kind: Kind, version: str, compute_capability: str, *, content: bool = True
) -> Path:
    """Check that an engine belongs to this bundle, this runtime and this GPU, and is unchanged; returns its plan.

    Args:
        bundle: opened.
        record: its sidecar.
        kind: of the TensorRT that would load it.
        version: its version.
        compute_capability: of the GPU that would run it.
        content: False: do not hash the plan.

    Raises:
        EngineVersionError: another TensorRT built it.
        EngineDeviceError: it is for another GPU.
        EngineStaleError: the graph it was built from has changed in the bundle, or the plan is not the one described.
    """
    path = plan_path(bundle, record.device, record.variant, record.role)
    again = _again(bundle, record.variant, record.device)
    if (record.runtime, record.version) != (kind, version):
        raise EngineVersionError(
            f"the engine was built by {title(record.runtime)} {record.version}, and {title(kind)} {version} is "
            "installed here",
            where=str(path),
            fix=again,
        )
    if record.compute_capability != compute_capability:
        raise EngineDeviceError(
            f"the engine is for compute capability {record.compute_capability}, and this GPU has {compute_capability}",
            where=str(path),
            fix=f"Build one for it: {build_command(bundle, record.variant)}",
        )
    for name, digest in record.graph.items():
        found = bundle.manifest.files.get(name)
        if found is None or found.sha256 != digest:
            what = "is no longer in the bundle" if found is None else "has changed since"
            raise EngineStaleError(f"{name}, which the engine was built of, {what}", where=str(path), fix=again)
    same = path.is_file() and path.stat().st_size == record.plan.size and not _is_linked(bundle, path)
    if not same or (content and sha256(path) != record.plan.sha256):
        what = "is not the one that its sidecar describes" if path.is_file() else "is missing"
        raise EngineStaleError(f"the plan {what}", where=str(path), fix=again)
    return path


def cached(bundle: Bundle, path: Path) -> bytes | None:
    """The content of a cache file in the folder of the engines; None where there is none.

    Raises:
        EngineStaleError: it is a symbolic link, which could lead to any file.
    """
    if not path.is_file():
        return None
    if _is_linked(bundle, path):
        fix = f"Delete it: rm {shlex.quote(str(path))}"
        raise EngineStaleError(f"the {path.suffixes[-2][1:]} cache is a symbolic link", where=str(path), fix=fix)
    return path.read_bytes()


def pinned_timing_cache(bundle: Bundle, device: str, variant: str, roles: Sequence[str]) -> bytes:
    """The timing cache of an earlier build, empty where there is none.

    Raises:
        EngineStaleError: it is not the one whose hash is in the sidecars, or a symbolic link.
    """
    path = timing_path(bundle, device, variant)
    content, pins = cached(bundle, path), set()
    if content is None:
        return b""
    for role in roles:
        # A sidecar that is missing, or damaged and about to be replaced, pins nothing.
        with contextlib.suppress(MissingError, EngineError):
            pins.add(read(bundle, device, variant, role).timing_cache)
    if pins - {hashlib.sha256(content).hexdigest(), None}:
        raise EngineStaleError(
            "the timing cache is not the one that the engines beside it were built with",
            where=str(path),
            fix=f"To measure anew, delete it: rm {shlex.quote(str(path))}",
        )
    return content


def writable_folder(bundle: Bundle, device: str) -> Path:
    """Make the folder for the engines of a device.

    Raises:
        BundleError: it cannot be made, or is a symbolic link, which is never followed.
    """
    path = folder(bundle, device)
    if _is_linked(bundle, path):
        raise BundleError(
            "the folder of the engines is a symbolic link, and engines behind one are not read",
            where=str(path),
            fix="Delete the link, or copy the bundle to where there is room.",
        )
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error
    return path


@contextlib.contextmanager
def replacing(folder: Path) -> Iterator[None]:
    """Lock the engines of a device while they are replaced: two builds at once replace them one after the other.

    Raises:
        BundleError: they cannot be written, or the bundle was replaced meanwhile.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
    except OSError as error:
        raise unwritable(folder, error) from error


def put(path: Path, content: bytes) -> None:
    """Replace a file atomically: another process reads the old one or the new one.

    Raises:
        BundleError: it cannot be written.
    """
    staged = path.with_name(f"{OURS}{path.name}-{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        staged.write_bytes(content)
        staged.replace(path)
    except OSError as error:
        staged.unlink(missing_ok=True)
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> BundleError:
    """The error where engines cannot be written."""
    return BundleError(
        f"the engine cannot be written: {error.strerror or error}",
        where=str(path),
        fix="Copy the bundle to a folder you can write, with room for its engines, and build there.",
    )


def sha256(path: Path) -> str:
    """Of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _is_linked(bundle: Bundle, path: Path) -> bool:
    """A link in any part of the path could lead out of the bundle."""
    return any(part.is_symlink() for part in (path, path.parent, bundle.path / ENGINES))


def build_command(bundle: Bundle, variant: str) -> str:
    """The command that builds the engines of a variant."""
    named = f" --variant {shlex.quote(variant)}" if len(bundle.manifest.variants) > 1 else ""
    return f"tokexport build {shlex.quote(str(bundle.path))}{named}"


def _again(bundle: Bundle, variant: str, device: str) -> str:
    return f"Build it again: {build_command(bundle, variant)} --device {device}"
