"""What a proof compares: for one part of one graph, its inputs and the outputs that PyTorch computed for them.

A probe names values of the graph, not files or modules. So the same probes prove a graph that was just exported, a
bundle on another machine without PyTorch, and an engine of another runtime.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from ...errors import BundleError
from ...files import parse_json
from ...graph_passes.compressors.base import OUTPUTS
from ...runtimes.bundle.manifest import Role
from ...runtimes.bundle.strict import Size
from .archive import Archive, DamagedError, opened

if TYPE_CHECKING:
    from ...runtimes.bundle.reader import Bundle

FILE = "proof.npz"

# The part of probes that hold what the whole model says; see `generation`.
ANSWERS = "generation"
# The part of probes that hold what float graphs expect of a text, for graphs with quantised weights; see `agreement`.
AGREEMENT = "agreement"
# Parts that run all language graphs, one after the other.
WHOLE = (ANSWERS, AGREEMENT)


@dataclass
class Probe:
    """One part of one graph on one input.

    Attributes:
        part: head, compressor, between, sequence, rebuild or tail of the encoder (see `encoder_probes`), the role of a
            whole graph (text, embed, prefill, decode), compressor or sequence of prefill (see `inner_parts`), or one of
            `WHOLE`.
        role: of the graph that contains it.
        inputs: value name -> array fed there; the part is extracted between these values and `expected`.
        expected: value name -> array that PyTorch computed.
        method: for a compressor, how to rebuild it: name, params, tokens, dim, keep, dtype, grid; for answers prompt,
            limit and own_picks; for an agreement prompt, least and weights.
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
        probes = load(bundle.path / FILE)
    _check_fits(bundle, probes)
    return probes


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
        with opened(path) as archive:
            index = TypeAdapter(list[_Entry]).validate_python(parse_json(archive["index"].tobytes()))
            return [_probe(entry, archive) for entry in index]
    except ValidationError as error:
        first = error.errors()[0]
        what = f"{FILE} is damaged: its index is wrong at {'.'.join(map(str, first['loc']))}: {first['msg']}"
    except ValueError as error:
        what = f"{FILE} is damaged: {error}"
    raise BundleError(what, where=str(path), fix="Export the bundle again.")


class _Array(BaseModel):
    """Where an array of a probe is: its name in the graph, its key in the archive."""

    name: str
    key: str
    dtype: str


class _Entry(BaseModel):
    """A probe in the index of the archive."""

    part: str
    role: Role
    inputs: list[_Array] = Field(min_length=1)
    expected: list[_Array] = Field(min_length=1)
    method: dict[str, Any]
    variant: str = ""


class _Method(BaseModel):
    """How to rebuild a compressor."""

    name: str
    params: dict[str, Any]
    tokens: Size
    dim: Size
    keep: Size
    dtype: Literal["float32", "float16", "bfloat16"]
    grid: list[Size] | None


class _Asked(BaseModel):
    """What an answer was asked for: the ids of the prompt, how many tokens at most, and whether the model's own code
    was fed what the graph picked."""

    prompt: list[int]
    limit: int = Field(ge=1)
    own_picks: bool


class _Given(BaseModel):
    """Behind which prompt a text was given, the least agreement, and the type of the weights."""

    prompt: list[int]
    least: float = Field(ge=0, le=1)
    weights: Literal["int8", "int4"]


_METHODS: dict[str, type[BaseModel]] = {"compressor": _Method, ANSWERS: _Asked, AGREEMENT: _Given}


def _probe(entry: _Entry, archive: Archive) -> Probe:
    import ml_dtypes

    def arrays(items: list[_Array]) -> dict[str, np.ndarray]:
        found = {}
        for item in items:
            array = archive[item.key]
            half = item.dtype == "bfloat16" and array.dtype == np.uint16
            found[item.name] = array.view(ml_dtypes.bfloat16) if half else array
            if found[item.name].dtype.name != item.dtype:
                raise DamagedError(f"{item.name} is {array.dtype.name}, and the index says {item.dtype[:80]}")
        return found

    return Probe(entry.part, entry.role, arrays(entry.inputs), arrays(entry.expected), entry.method, entry.variant)


def _check_fits(bundle: Bundle, probes: list[Probe]) -> None:
    """Refuse probes of graphs that the bundle does not have, and compressors that cannot be rebuilt."""

    def wrong(number: int, what: str) -> BundleError:
        where = str(bundle.path / FILE)
        return BundleError(f"probe {number} of {FILE} {what}", where=where, fix="Export the bundle again.")

    variants = {variant.name: variant for variant in bundle.manifest.variants}
    for number, probe in enumerate(probes):
        variant = variants.get(probe.variant or bundle.variant().name)
        if variant is None or probe.role not in variant.graphs:
            raise wrong(
                number, f"is about {probe.role} of {probe.variant[:80] or 'the first variant'}, which is not here"
            )
        if probe.part not in _METHODS:
            continue
        try:
            _METHODS[probe.part].model_validate(probe.method)
        except ValidationError as error:
            first = error.errors()[0]
            raise wrong(number, f"has a wrong method: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        if probe.part == "compressor" and len(probe.expected) != len(OUTPUTS):
            raise wrong(number, f"has {len(probe.expected)} outputs, and a compressor has {len(OUTPUTS)}")
