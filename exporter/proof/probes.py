"""What a proof compares: for one part of one graph, its inputs and the outputs that PyTorch computed for them.

A probe names values of the graph, not files or modules. So the same probes prove a graph that was just exported, a
bundle on another machine without PyTorch, and an engine of another runtime.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import BundleError

if TYPE_CHECKING:
    from ...runtimes.bundle.manifest import Role
    from ...runtimes.bundle.reader import Bundle

FILE = "proof.npz"


@dataclass
class Probe:
    """One part of one graph on one input.

    Attributes:
        part: head, compressor, between, sequence or tail of the encoder (see `encoder_probes`), or the role of a whole
            graph (text, embed, prefill, decode).
        role: of the graph that contains it.
        inputs: value name -> array fed there; the part is extracted between these values and `expected`.
        expected: value name -> array that PyTorch computed.
        method: for a compressor, how to rebuild it: name, params, tokens, dim, keep, dtype, grid.
        variant: of the bundle; empty for its first.
    """

    part: str
    role: Role
    inputs: dict[str, np.ndarray]
    expected: dict[str, np.ndarray]
    method: dict[str, Any] = field(default_factory=dict)
    variant: str = ""


def _bits(array: np.ndarray) -> np.ndarray:
    """The array as an .npz can store it, which knows no bfloat16: its bits."""
    return array.view(np.uint16) if array.dtype.name == "bfloat16" else array


def to_bytes(probes: list[Probe]) -> bytes:
    """All probes as one compressed .npz: an index and the arrays, equal ones only once."""
    arrays: dict[str, np.ndarray] = {}
    keys: dict[tuple[str, tuple[int, ...], str], str] = {}
    index = []
    for number, probe in enumerate(probes):
        entry: dict[str, Any] = {"part": probe.part, "role": probe.role, "method": probe.method}
        if probe.variant:
            entry["variant"] = probe.variant
        for side in ("inputs", "expected"):
            entry[side] = []
            for i, (name, array) in enumerate(getattr(probe, side).items()):
                content = hashlib.sha256(_bits(array).tobytes()).hexdigest()
                key = keys.setdefault((array.dtype.name, array.shape, content), f"{number}.{side}.{i}")
                arrays.setdefault(key, _bits(array))
                entry[side].append({"name": name, "key": key, "dtype": array.dtype.name})
        index.append(entry)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, index=np.frombuffer(json.dumps(index).encode(), np.uint8), **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def of_bundle(bundle: Bundle) -> list[Probe]:
    """The probes that a bundle carries.

    Raises:
        BundleError: it has none, or the manifest does not list their file, or they are damaged.
    """
    if FILE not in bundle.manifest.files and os.path.lexists(bundle.path / FILE):
        raise BundleError(
            f"{FILE} is not among the files of the manifest, so it is not the proof that this bundle was exported with",
            where=str(bundle.path),
            fix="Export the bundle again, or copy it again in full.",
        )
    if FILE not in bundle.manifest.files:
        return load(bundle.path / FILE)
    with bundle.unchanged([FILE]):
        return load(bundle.path / FILE)


def load(path: Path) -> list[Probe]:
    """Read what `to_bytes` made.

    Raises:
        BundleError: the file is missing or damaged.
    """
    if not path.is_file():
        raise BundleError(
            f"the bundle has no {FILE}, so nothing can be proved again",
            where=str(path),
            fix="Export it again without --no-verify.",
        )
    try:
        with np.load(path, allow_pickle=False) as archive:
            index = json.loads(archive["index"].tobytes())
            return [_probe(entry, archive) for entry in index]
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise BundleError(f"{FILE} is damaged: {error}", where=str(path), fix="Export the bundle again.") from None


def _probe(entry: dict[str, Any], archive: Any) -> Probe:
    import ml_dtypes

    def arrays(side: str) -> dict[str, np.ndarray]:
        found = {}
        for item in entry[side]:
            array = archive[item["key"]]
            found[item["name"]] = array.view(ml_dtypes.bfloat16) if item["dtype"] == "bfloat16" else array
        return found

    given, expected = arrays("inputs"), arrays("expected")
    return Probe(entry["part"], entry["role"], given, expected, entry["method"], entry.get("variant", ""))
