"""topk: keep the K tokens of the highest score, unchanged, in spatial order.

The score is a parameter: the attention of the CLS token (by which VisionZip, FasterVLM and others rank), the norm of a
token, or its distance to the mean of all. Domain: any K from 1 to N; K = N is the identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .base import Case, Compressed, Example, compressor
from .blocks import select
from .blocks.replay import Replay, top_k_regret

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..ir_tools.builder import Builder


@compressor(
    "topk",
    family="attention",
    modalities=("image", "video", "audio"),
    merges=False,
    source="tokexport",
    summary="keeps the tokens of the highest CLS attention, norm, or distance to the mean",
    plugin=True,
)
@dataclass(frozen=True)
class Topk:
    """Parameters of topk.

    Attributes:
        score: what tokens are ranked by; only `cls_attention` reads a signal.
    """

    score: Literal["cls_attention", "norm", "distance_to_mean"] = "cls_attention"

    examples = (
        Example(Case(13, 5, 4), score="cls_attention"),
        Example(Case(13, 5, 4), score="norm"),
        Example(Case(13, 5, 4), score="distance_to_mean"),
    )

    def signals(self) -> tuple[str, ...]:
        """``cls_attention`` [B, N] if that is the score."""
        return ("cls_attention",) if self.score == "cls_attention" else ()

    def check(self, case: Case) -> None:
        """1 <= K <= N."""
        select.check_keep(case)

    def reference(self, case: Case, tokens: torch.Tensor, **signals: torch.Tensor) -> Compressed[torch.Tensor]:
        """Sort, truncate to K, restore the spatial order."""
        kept = select.top_k(self.scores(tokens, **signals), case.keep)
        return select.selection(tokens, kept.sort(dim=1).values)

    def scores(self, tokens: torch.Tensor, **signals: torch.Tensor) -> torch.Tensor:
        """[B, N] float32."""
        if self.score == "cls_attention":
            return signals["cls_attention"].float()
        x = tokens.float()
        return (x if self.score == "norm" else x - x.mean(1, keepdim=True)).norm(dim=2)

    def replay(
        self, case: Case, tokens: torch.Tensor, got: Compressed[torch.Tensor], **signals: torch.Tensor
    ) -> Replay:
        """Norms and distances are rounded relative to the norm of the tokens; a signal is not rounded."""
        scores = self.scores(tokens, **signals)
        scale = scores.abs() if self.score == "cls_attention" else tokens.float().norm(dim=2)
        kept = select.slots_of(got.kept_indices, case.tokens) >= 0
        return Replay(select.selection(tokens, got.kept_indices), top_k_regret(scores, kept, scale))

    def onnx(self, b: Builder, case: Case, tokens: ir.Value, **signals: ir.Value) -> Compressed[ir.Value]:
        """One TopK, one sort, one gather."""
        if case.keep == case.tokens:
            return select.emit_every_token(b, case, tokens)
        if self.score == "cls_attention":
            scores = b.cast(signals["cls_attention"], "float32")
        else:
            x = select.emit_float(b, tokens, case)
            if self.score == "distance_to_mean":
                x = b.op("Sub", x, b.op("ReduceMean", x, [1], keepdims=1))
            scores = b.op("Sqrt", select.emit_square_sum(b, x, keepdims=False))
        _, best = select.emit_top_k(b, scores, case.keep, case.tokens)
        kept, _ = select.emit_sort(b, best, case.keep)
        return select.emit_selection(b, case, tokens, kept)
