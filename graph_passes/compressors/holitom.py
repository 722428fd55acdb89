"""HoliTom: the static part of a video window becomes one frame; of the moving part the most attended tokens are kept.

Source: HoliTom (arXiv 2505.21334, NeurIPS 2025) and its code, its part before the language model. For windows of a
video (segments), its static and dynamic sets, and the share of K that each set has, see `segments`:

    positions are ranked as static by similarity: the least cosine of two consecutive frames of the window
    a static set is clustered by DPC-KNN (see `dpc_knn`); each slot is beta centre + (1 - beta) mean of the others
    a dynamic set keeps the tokens of the largest attention unchanged, and loses the others

The size of a slot is the number of video tokens in it. The slot of a cluster is not exactly their mean: beta = .6 gives
the centre more weight.

Fixed-count form: the released code chooses windows by dynamic programming, so that most tokens of static
positions are removed. There a position is static if all its cosines are above a threshold of .65 to .8. Here windows
have at most 4 frames, and a fixed share of positions is static. Merging inside the language model, by attention of the
last token, is `holitom_inner`. The released code can also cluster part of a dynamic set; that is off by default and
fails as released. Its clustering uses at most as many neighbours as there are clusters; here 7, or all tokens if fewer.

Domain: from one slot per set (T + T / 4 by default) to N minus the tokens that static positions save, which is N unless
`static` is set. K = N is the identity.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ...errors import RequestError
from .base import Case, Compressed, Example, compressor
from .blocks import select
from .blocks.attended import Attends, emit_keep_highest, keep_highest
from .blocks.replay import Replay
from .blocks.segment_sets import Group
from .blocks.segments import Segmented
from .prunevid import clustered, emit_clustered

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..ir_tools.builder import Builder


@compressor(
    "holitom",
    family="attention",
    modalities=("video",),
    merges=True,
    source="HoliTom, arXiv 2505.21334",
    summary="averages static positions over time and keeps the most attended of the others; fixed-count form",
    approximate=True,
)
@dataclass(frozen=True)
class Holitom(Segmented, Attends):
    """Parameters of HoliTom: those of `Segmented`, and

    Attributes:
        attention: ``received``, what each token receives from all, as on SigLIP; ``cls``, its CLS attention.
        beta: weight of the centre of a cluster.
    """

    attention: Literal["cls", "received"] = "received"
    beta: float = 0.6

    examples = (
        Example(Case(60, 5, 21, grid=(5, 3, 4)), Case(60, 5, 49, grid=(5, 3, 4))),
        Example(Case(60, 5, 21, grid=(5, 3, 4)), attention="cls"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.beta <= 1:
            raise RequestError(f"beta {self.beta} is outside 0..1", where="method 'holitom'", fix="Use --set beta=0.6.")

    def likeness(self, unit: torch.Tensor) -> torch.Tensor:
        """The least cosine of two consecutive frames."""
        return (unit[:, 1:] * unit[:, :-1]).sum(3).amin(1)

    def reduced(
        self, group: Group, signals: Mapping[str, torch.Tensor], got: Compressed[torch.Tensor] | None
    ) -> Replay:
        """Clusters of static sets, and a selection of dynamic ones."""
        import torch

        if not group.static:
            best = keep_highest(group.tokens, self.attended(signals).gather(1, group.positions), group.count)
            return Replay(best, torch.zeros(len(group.tokens), dtype=torch.float64))
        one = clustered(group, got)
        mean, kept, sizes, slot = (getattr(one.expected, name) for name in vars(one.expected))
        centre, count = select.gather(group.tokens, kept), sizes[..., None]
        others = (mean * count - centre) / (count - 1).clamp(min=1)
        mixed = torch.where(count > 1, self.beta * centre + (1 - self.beta) * others, centre)
        return Replay(Compressed(mixed, kept, sizes, slot), one.regret)

    def emit_likeness(self, b: Builder, unit: ir.Value, length: int) -> ir.Value:
        """The least cosine of two consecutive frames."""
        now, before = (b.op("Slice", unit, [i], [length - 1 + i], [1]) for i in (1, 0))
        return b.op("ReduceMin", b.op("ReduceSum", b.op("Mul", now, before), [3], keepdims=0), [1], keepdims=0)

    def emit_scores(self, b: Builder, signals: Mapping[str, ir.Value]) -> ir.Value | None:
        """The attention."""
        return self.emit_attended(b, signals)

    def emit_reduced(
        self, b: Builder, case: Case, static: bool, tokens: ir.Value, scores: ir.Value | None
    ) -> Compressed[ir.Value]:
        """Clusters of static sets, and a selection of dynamic ones."""
        if not static:
            assert scores is not None
            return emit_keep_highest(b, case, tokens, scores)
        one = emit_clustered(b, case, tokens)
        centre, count = select.emit_gather(b, tokens, one.kept_indices), b.op("Unsqueeze", one.sizes, [2])
        rest = b.op("Sub", b.op("Mul", one.tokens, count), centre)
        others = b.op("Div", rest, b.op("Max", b.op("Sub", count, 1.0), 1.0))
        mixed = b.op("Add", b.op("Mul", centre, float(self.beta)), b.op("Mul", others, float(1 - self.beta)))
        content = b.op("Where", b.op("Greater", count, 1.0), mixed, centre)
        return Compressed(content, one.kept_indices, one.sizes, one.assignment)
