"""How much of an encoder's time its compressors take: what they cost is to be known before a bundle is shipped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from ..timing import interleaved

if TYPE_CHECKING:
    import onnx_ir as ir

    from ...graph_passes.insertion.inserted import Inserted
    from ..proof.prove import Proved

Run: TypeAlias = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]

SHARE = 0.05  # above it, the user is told


def costly(encoder: ir.Model, inserted: Inserted, proved: Proved) -> list[str]:
    """A note for each compressor that takes much of the time of the encoder it sits in, by running both."""
    from ...runtimes.ort.graph import ort_runner
    from ..proof.parity import between

    alone = {tuple(probe.expected): probe.inputs for probe in reversed(proved.probes) if probe.part == "compressor"}
    parts = [
        (step.method, ort_runner(between(encoder, fed, outputs)), fed)
        for step in inserted.steps
        # One that keeps every token stands for none.
        if step.keep < step.seam.tokens
        for outputs, fed in alone.items()
        if step.node_outputs["tokens"] in outputs
    ]
    return notes(ort_runner(encoder), proved.encoded[0][0], parts)


def notes(
    whole: Run, sample: Mapping[str, np.ndarray], parts: Sequence[tuple[str, Run, Mapping[str, np.ndarray]]]
) -> list[str]:
    """A note for each compressor that takes more than `SHARE` of the encoder's time.

    Args:
        whole: the encoder with its compressors.
        sample: its inputs.
        parts: of each compressor, the method, how to run it alone, and its inputs in the encoder.
    """
    tasks = {"encoder": partial(whole, sample)}
    tasks |= {f"step {number}": partial(run, fed) for number, (_, run, fed) in enumerate(parts)}
    taken = interleaved(tasks, rounds=3, warmup=1)
    shares = [(method, taken[f"step {number}"] / taken["encoder"]) for number, (method, _, _) in enumerate(parts)]
    return [worded(method, share) for method, share in shares if share > SHARE]


def worded(method: str, share: float) -> str:
    """What the user is told of a method that takes this share of the encoder's time."""
    return (
        f"{method} takes about {min(share, 1):.0%} of the encoder's time in ONNX Runtime on this machine; "
        "docs/methods.md has what each method costs"
    )
