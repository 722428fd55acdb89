"""Checks the engines in a bundle against the TensorRT, the GPU and the plugin library of this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ...errors import MissingError, TokexportError
from . import nvidia
from .findings import OK, PROBLEM, WARNING, Finding
from .machine import Machine

if TYPE_CHECKING:
    from ...runtimes.bundle.reader import Bundle
    from ...runtimes.tensorrt.engines.file import EngineRecord

# Hashing more than this takes longer than a doctor should; loading an engine does it.
_HASHED = 2**30

_LOOK = """
import json
from tokexport.runtimes.tensorrt.engines.file import sha256
from tokexport.runtimes.tensorrt.plugins import found
from tokexport.runtimes.tensorrt.api import KINDS, version_of
from tokexport.runtimes.tensorrt.cuda import gpu_here
library = found()
here = {"gpu": gpu_here(), "library": library and sha256(library)}
print(json.dumps({**here, "versions": {kind: version_of(kind) for kind in KINDS}}))
"""


def engines(machine: Machine, bundle: Bundle) -> Iterator[Finding]:
    """A finding for the engines of each variant and device."""
    from ...runtimes.tensorrt.engines import file as engine_file

    built = [
        (variant, device)
        for variant in bundle.manifest.variants
        for device in engine_file.devices(bundle, variant.name)
    ]
    if not built:
        return
    ran = machine.python_runs(_LOOK)
    if ran.code != 0:
        what = f"the runtimes for them cannot be checked: {ran.last_line or 'no answer'}"
        yield Finding("engines", WARNING, what, "tokexport doctor --json")
        return
    here = json.loads(ran.out.splitlines()[-1])
    if here["gpu"] is None and (gpu := nvidia.seen(machine)):
        here["gpu"] = gpu.capability or None
    for variant, device in built:
        name = f"engines {device}" + (f" {variant.name}" if len(bundle.manifest.variants) > 1 else "")
        try:
            records = [engine_file.read(bundle, device, variant.name, role) for role in variant.graphs]
            missing = [note for record in records for note in _compare(bundle, record, here)]
        except TokexportError as error:
            yield Finding(name, _status(error), error.what, error.fix)
            continue
        if missing:
            yield Finding(name, WARNING, *missing[0])
        else:
            first = records[0]
            what = f"{len(records)} for compute capability {first.compute_capability}, {first.runtime} {first.version}"
            yield Finding(name, OK, what + ("" if here["gpu"] else "; no GPU is found here"))


def _compare(bundle: Bundle, record: EngineRecord, here: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(what is missing here, how to get it) for one engine.

    Raises:
        EngineError: it cannot run here.
    """
    from ...runtimes.tensorrt.api import install, title
    from ...runtimes.tensorrt.engines import file as engine_file

    version, content = here["versions"][record.runtime], record.plan.size <= _HASHED
    known = (record.runtime, version or record.version, here["gpu"] or record.compute_capability)
    engine_file.check(bundle, record, *known, content=content)
    if version is None:
        yield f"built by {title(record.runtime)} {record.version}, which is not installed here", install(record.runtime)
    if not record.plugins.names:
        return
    again = engine_file.build_command(bundle, record.variant)
    if here["library"] is None:
        yield "they need plugins, and there is no plugin library here", "tokexport plugins build"
    elif record.plugins.library is None:
        yield "they need plugins, and were built without the plugin library: they cannot run", again
    elif record.plugins.library != here["library"]:
        yield "the plugin library is not the one they were built with", again


def _status(error: TokexportError) -> Any:
    """Engines for another GPU, or of a role that was not built, are only a warning; anything else cannot work."""
    from ...runtimes.tensorrt.failures import EngineDeviceError

    return WARNING if isinstance(error, MissingError | EngineDeviceError) else PROBLEM
