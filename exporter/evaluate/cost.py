"""What a bundle costs on this machine, and how much of its encoder's time its compressors take.

Times are those of ONNX Runtime at B = 1 on one thread, by the time that the process itself computes: others on the
machine disturb that little. A graph is opened, timed and let go before the next, so that the weights of two are never
in memory together.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ..freed import give_back

if TYPE_CHECKING:
    import onnx_ir as ir

    from ...graph_passes.insertion.inserted import Inserted
    from ...runtimes.bundle.manifest import Role, TensorRecord, Variant
    from ..bundling.graphs import Built
    from ..proof.prove import Proved

Run: TypeAlias = Callable[[Mapping[str, np.ndarray]], Any]

SHARE = 0.05  # above it, the user is told
# A graph that takes longer is timed once, after one run that warms it up.
_LONG = 1.0  # seconds
_ROUNDS = 3


@dataclass(frozen=True)
class Cost:
    """Milliseconds, and bytes.

    Attributes:
        uncompressed_ms: the encoder without a compressor.
        encoder_ms: with it.
        compressor_ms: all compressors of it alone.
        prefill_ms: embed and prefill; None without language graphs.
        token_ms: decode; likewise.
        cache_bytes: KV caches, and other state of a language model; 0 without one.
        uncompressed_cache_bytes: the same where every token of the encoder were kept.
    """

    uncompressed_ms: float
    encoder_ms: float
    compressor_ms: float
    prefill_ms: float | None = None
    token_ms: float | None = None
    cache_bytes: int = 0
    uncompressed_cache_bytes: int = 0

    @property
    def first_token_ms(self) -> float:
        """Up to the first token of an answer, or to the encoder's output."""
        return self.encoder_ms + (self.prefill_ms or 0)

    def to_json(self) -> dict[str, Any]:
        """A flat JSON object."""
        return {**asdict(self), "first_token_ms": self.first_token_ms}


def measure(folder: Path, variant: Variant, built: Built, proved: Proved, *, precision: str) -> tuple[Cost, list[str]]:
    """Time the graphs of a variant that was proved.

    Args:
        folder: where its graphs are.
        variant: of the manifest.
        built: the graphs, or in bf16 their fp32 reference build, which is what can be run here.
        proved: for inputs.
        precision: of the bundle.

    Returns:
        The cost, and a note for each compressor that takes more than `SHARE` of the encoder's time.
    """
    from ...graph_passes.ir_tools.model_io import load_model
    from ...runtimes.ort.graph import ort_runner

    models: Mapping[Role, ir.Model] = built.models
    if precision != "bf16":
        models = {role: load_model(folder / graph.forms["portable"]) for role, graph in variant.graphs.items()}
    uncompressed = built.uncompressed
    sample = proved.encoded[0][0]
    taken, shares = encoder_times(models["encoder"], built.inserted, proved)
    plain = {value.name: sample[value.name or ""] for value in uncompressed.graph.inputs}
    taken["uncompressed_ms"] = milliseconds(ort_runner(uncompressed, threads=1), plain)  # type: ignore[arg-type]
    give_back()
    steps: dict[str, tuple[Role, ...]] = {"prefill_ms": ("embed", "prefill"), "token_ms": ("decode",)}
    if variant.generation is not None:
        for name, roles in steps.items():
            taken[name] = 0.0
            for role in [role for role in roles if role in models]:
                taken[name] += milliseconds(ort_runner(models[role], threads=1), blank(models[role]))
                give_back()
    now, whole = caches(variant, _count(uncompressed), _count(models["encoder"]))
    return Cost(**taken, cache_bytes=now, uncompressed_cache_bytes=whole), costly(shares)


def encoder_times(
    encoder: ir.Model, inserted: Inserted, proved: Proved
) -> tuple[dict[str, float], list[tuple[str, float]]]:
    """Milliseconds of the encoder and of its compressors, and the share of each compressor, by method."""
    from ...runtimes.ort.graph import ort_runner
    from ..proof.parity import between

    alone = {tuple(probe.expected): probe.inputs for probe in reversed(proved.probes) if probe.part == "compressor"}
    parts = [
        (step.method, ort_runner(between(encoder, fed, outputs), threads=1), fed)
        for step in inserted.steps
        # One that keeps every token stands for none.
        if step.keep < step.seam.tokens
        for outputs, fed in alone.items()
        if step.node_outputs["tokens"] in outputs
    ]
    whole, each = parted(ort_runner(encoder, threads=1), proved.encoded[0][0], parts)
    del parts
    give_back()
    taken = {"encoder_ms": whole, "compressor_ms": sum(ms for _, ms in each)}
    return taken, [(method, ms / whole) for method, ms in each]


def parted(
    whole: Run, sample: Mapping[str, np.ndarray], parts: Sequence[tuple[str, Run, Mapping[str, np.ndarray]]]
) -> tuple[float, list[tuple[str, float]]]:
    """Milliseconds of an encoder, and of each compressor in it.

    Args:
        whole: the encoder with its compressors.
        sample: its inputs.
        parts: of each compressor, the method, how to run it alone, and its inputs in the encoder.
    """
    return milliseconds(whole, sample), [(method, milliseconds(run, fed)) for method, run, fed in parts]


def milliseconds(run: Run, fed: Mapping[str, np.ndarray]) -> float:
    """The median time of some runs, after one that warms up."""

    def once() -> float:
        start = time.process_time()
        run(fed)
        return time.process_time() - start

    rounds = 1 if once() > _LONG else _ROUNDS
    return 1e3 * median(once() for _ in range(rounds))


def costly(shares: Sequence[tuple[str, float]]) -> list[str]:
    """What the user is told of each method that takes more than `SHARE` of the encoder's time."""
    return [
        f"{method} takes about {min(share, 1):.0%} of the encoder's time in ONNX Runtime on this machine; "
        "docs/methods.md has what each method costs"
        for method, share in shares
        if share > SHARE
    ]


def caches(variant: Variant, all_tokens: int, tokens: int) -> tuple[int, int]:
    """Bytes of what decode reads and carries along, and what they would be for `all_tokens` instead of `tokens`."""
    decode, generation = variant.graphs.get("decode"), variant.generation
    if decode is None or generation is None:
        return 0, 0
    held = {name: record for name, record in decode.inputs.items() if name.startswith(("past_", "cross_", "state_"))}
    grown = (all_tokens - tokens) * (generation.images or 1) if generation.attention == "self" else 0
    longest = max((record.shape[2] for name, record in held.items() if name.startswith("past_")), default=0)
    now = whole = 0
    for name, record in held.items():
        size = _bytes(record)
        now += size
        if name.startswith("past_"):
            whole += size * (longest + grown) // record.shape[2]
        elif name.startswith("cross_"):
            whole += size * all_tokens // record.shape[2]
        else:
            whole += size
    return now, whole


def _bytes(record: TensorRecord) -> int:
    size = 2 if record.dtype == "bfloat16" else np.dtype(record.dtype).itemsize
    return int(np.prod(record.shape)) * size


def _count(encoder: ir.Model) -> int:
    """Tokens that an encoder gives: its first output is [B, K, D], or an answer of no tokens."""
    shape = encoder.graph.outputs[0].shape
    return int(shape[1]) if shape is not None and len(shape) == 3 else 0  # type: ignore[arg-type]


def blank(model: ir.Model) -> dict[str, np.ndarray]:
    """Zeros for every input: the time of a graph of static shapes does not depend on what it reads."""
    return {
        value.name or "": np.zeros([int(size) for size in value.shape or ()], value.dtype.numpy())  # type: ignore[arg-type, union-attr]
        for value in model.graph.inputs
    }
