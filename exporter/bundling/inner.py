"""Which of the steps of a request are between the layers of the language model, and which in the encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import RequestError
from ...graph_passes.compressors import make
from ...graph_passes.insertion.sequence import Step

if TYPE_CHECKING:
    from ..sources.source import Source

_PREFIX = "decoder_layer:"


@dataclass(frozen=True)
class EveryToken(Step):
    """Stands in the encoder where all compressors are in the language model: it keeps all tokens as they are."""

    @property
    def budget(self) -> str:
        """Nothing is removed."""
        return "0"

    def kept(self, tokens: int) -> int:
        """All."""
        return tokens


def parted(steps: Sequence[Step]) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
    """The steps of the encoder, at least one, and those of the language model.

    Raises:
        RequestError: they are in another order; tokens are to be put back between layers of the language model.
    """
    inside = [step.seam.startswith(_PREFIX) for step in steps]
    first = inside.index(True) if any(inside) else len(steps)
    if not all(inside[first:]):
        wrong = steps[first + inside[first:].index(False)]
        raise RequestError(
            f"step {steps.index(wrong) + 1}, {wrong.compressor.method.name}, is in front of the language model, and "
            f"the step before it is at {steps[first].seam}, inside",
            fix="Write the steps from front to back, as tokens pass them.",
        )
    for step in steps[first:]:
        if step.rebuild:
            raise RequestError(
                f"tokens cannot be rebuilt behind seam {step.seam}: the layers of the language model end there",
                fix="Leave rebuild out: it is for layers of the encoder.",
            )
    outer = tuple(steps[:first]) or (EveryToken(make("uniform"), None, None),)
    return outer, tuple(steps[first:])


def placed(source: Source, steps: Sequence[Step], parts: str, size_bias: str) -> Source:
    """`source` with these steps between the layers of its language model; itself where there are none.

    Raises:
        RequestError: only the encoder is exported, or as `Source.inside`.
    """
    if not steps:
        return source
    if parts != "all":
        raise RequestError(
            f"seam {steps[0].seam} is in the language model, and --parts {parts} leaves that out",
            fix="Leave --parts out, or take a seam of the encoder: --seam projector_output.",
        )
    return source.inside(steps, size_bias=size_bias != "off")
