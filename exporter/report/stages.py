"""What several compressors leave of an input, one after the other: a token is followed through all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..proof.parity import between
from .picks import Picks

if TYPE_CHECKING:
    import onnx_ir as ir

    from ...graph_passes.insertion.inserted import Inserted
    from .look import Look


@dataclass(frozen=True)
class Stage:
    """What is left behind one compressor.

    Attributes:
        title: of the compressor, and its place.
        picks: of the tokens that the first compressor since the last rebuilt ones reads.
        grid: of these.
    """

    title: str
    picks: Picks
    grid: tuple[int, ...] | None


def stages(encoder: ir.Model, inserted: Inserted, looks: Sequence[Look]) -> list[list[Stage]]:
    """The stages of each look; none where there is one compressor, whose picks are those of the look.

    Args:
        encoder: with its compressors, as it can be run here.
        inserted: the last of these.
        looks: their inputs are run through it.
    """
    from ...runtimes.ort.graph import ort_runner

    steps = inserted.steps
    if not looks or (len(steps) == 1 and not inserted.rebuilt):
        return [[] for _ in looks]
    main = encoder.graph.inputs[0].name or ""
    names = dict.fromkeys(name for step in steps for name in step.composed_outputs.values())
    run = ort_runner(between(encoder, [main], names))
    found = []
    for look in looks:
        values = run({main: look.input})
        picks = [Picks.of({part: values[name] for part, name in step.composed_outputs.items()}) for step in steps]
        found.append([_stage(number, step, one) for number, (step, one) in enumerate(zip(steps, picks), 1)])
    return found


def _stage(number: int, step: Inserted, picks: Picks) -> Stage:
    first = step.group[0]
    title = f"{number}. {step.method} at {step.seam.name}: {first.seam.tokens} → {step.keep}"
    return Stage(title, picks, first.seam.grid)
