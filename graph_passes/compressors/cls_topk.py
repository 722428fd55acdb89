"""cls_topk: keep the K tokens with the highest CLS attention.

Source: FasterVLM (arXiv 2412.01818), on CLIP before the projector. For attention a [N], K slots:

    kept = the K largest a_i, the lowest index first among equals
    the kept tokens unchanged, in spatial order; all others are lost

a is the CLS row of the last attention before the seam, mean over heads. FasterVLM reads the last layer's attention and
the second last layer's tokens; here both are those of the seam. ``attention`` "received" is what audio transformers
prune by (arXiv 2504.01690). Between the layers of a language model a is the row of the prompt's last id: FastV
(arXiv 2403.06764). Domain: any K from 1 to N; K = N is the identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .base import Case, Compressed, Example, compressor
from .blocks import select
from .blocks.attended import Attends, emit_keep_highest, keep_highest

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..ir_tools.builder import Builder


@compressor(
    "cls_topk",
    family="attention",
    modalities=("image", "video", "audio"),
    merges=False,
    source="FasterVLM, arXiv 2412.01818",
    summary="keeps the tokens with the highest CLS attention",
    plugin=True,
)
@dataclass(frozen=True)
class ClsTopk(Attends):
    """The only parameter is the attention it ranks by."""

    examples = (Example(Case(13, 5, 4)),)

    def check(self, case: Case) -> None:
        """1 <= K <= N."""
        select.check_keep(case)

    def reference(self, case: Case, tokens: torch.Tensor, **signals: torch.Tensor) -> Compressed[torch.Tensor]:
        """Sort, truncate to K, restore the spatial order."""
        return keep_highest(tokens, self.attended(signals), case.keep)

    def onnx(self, b: Builder, case: Case, tokens: ir.Value, **signals: ir.Value) -> Compressed[ir.Value]:
        """One TopK, one sort, one gather."""
        if case.keep == case.tokens:
            return select.emit_every_token(b, case, tokens)
        return emit_keep_highest(b, case, tokens, self.emit_attended(b, signals))
