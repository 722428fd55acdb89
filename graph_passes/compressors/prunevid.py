"""PruneVid: the static part of a video segment becomes one frame, and every frame is clustered.

Source: PruneVid (arXiv 2412.16117, ACL 2025 Findings) and its code, after the projector. For segments of a video, its
static and dynamic sets, and the share of K that each set has, see `segments`:

    positions are ranked as static by similarity: the mean cosine of all pairs of frames of the segment
    every set is clustered by DPC-KNN (see `dpc_knn`) to its share, each slot the mean of its cluster

The size of a slot is the number of video tokens in it, and sizes sum to N.

Fixed-count form: the released code finds segments as clusters of frames, calls a position static if its cosine is
above .8, and clusters sets of more than 14 tokens to half of their size. Here segments have 4 frames, because the
released code has a quarter as many segments as frames, and a fixed share of positions is static. Its pruning in the
tenth layer of the language model, by attention from the text, is `cls_topk` there, with ``attention`` "peak".

Domain: from one slot per set (T + T / 4 by default) to N minus the tokens that static positions save, which is N unless
`static` is set. K = N is the identity.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .base import Case, Compressed, Example, compressor
from .blocks import select
from .blocks.replay import Replay
from .blocks.segment_sets import Group
from .blocks.segments import Segmented
from .dpc_knn import DpcKnn

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..ir_tools.builder import Builder

_NEIGHBOURS = 7  # k of the released code's clustering


@compressor(
    "prunevid",
    family="similarity",
    modalities=("video",),
    merges=True,
    source="PruneVid, arXiv 2412.16117",
    seam="projector_output",
    summary="averages static positions over time, clusters every frame; fixed-count form, without the pruning by text",
    approximate=True,
)
@dataclass(frozen=True)
class Prunevid(Segmented):
    """Parameters of PruneVid: those of `Segmented`."""

    examples = (
        Example(Case(60, 5, 21, grid=(5, 3, 4)), Case(60, 5, 49, grid=(5, 3, 4)), Case(12, 3, 5, grid=(1, 3, 4))),
    )

    def signals(self) -> tuple[str, ...]:
        """None: it reads only the tokens."""
        return ()

    def likeness(self, unit: torch.Tensor) -> torch.Tensor:
        """The mean cosine of all pairs of frames."""
        import torch

        cosine = torch.einsum("bspd,btpd->bpst", unit, unit)
        pairs = unit.shape[1] * (unit.shape[1] - 1)
        return (cosine.sum((2, 3)) - cosine.diagonal(dim1=2, dim2=3).sum(2)) / pairs

    def reduced(
        self, group: Group, signals: Mapping[str, torch.Tensor], got: Compressed[torch.Tensor] | None
    ) -> Replay:
        """Clusters."""
        return clustered(group, got)

    def emit_likeness(self, b: Builder, unit: ir.Value, length: int) -> ir.Value:
        """From the sum over frames: its square contains every pair twice, and the square of each frame once."""
        total = select.emit_square_sum(b, b.op("ReduceSum", unit, [1], keepdims=0), keepdims=False)
        own = b.op("ReduceSum", b.op("Mul", unit, unit), [1, 3], keepdims=0)
        return b.op("Div", b.op("Sub", total, own), float(length * (length - 1)))

    def emit_reduced(
        self, b: Builder, case: Case, static: bool, tokens: ir.Value, scores: ir.Value | None
    ) -> Compressed[ir.Value]:
        """Clusters."""
        return emit_clustered(b, case, tokens)


def clustered(group: Group, got: Compressed[torch.Tensor] | None) -> Replay:
    """The clusters of a set; with `got`, its own clusters."""
    import torch

    how = DpcKnn(min(_NEIGHBOURS, group.case.tokens))
    if got is not None:
        return how.replay(group.case, group.tokens, got)
    return Replay(how.reference(group.case, group.tokens), torch.zeros(len(group.tokens), dtype=torch.float64))


def emit_clustered(b: Builder, case: Case, tokens: ir.Value) -> Compressed[ir.Value]:
    """As `clustered`."""
    return DpcKnn(min(_NEIGHBOURS, case.tokens)).onnx(b, case, tokens)
