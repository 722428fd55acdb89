"""qformer: learned queries read the tokens by cross-attention.

Source: BLIP-2 (Li et al. 2023, arXiv 2301.12597): 32 queries of 768 channels through BERT-base's 12 layers,
cross-attention in every second; the linear layer to the language model that follows is part of the model. K slots are K
queries (see qformer_layers.py for the layers and the names of their weights).

Slots have no positions: kept_indices are equal steps, assignment is -1, and sizes are 1, because the
downstream model was trained with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .base import Case, Compressed, Example, compressor
from .blocks import select
from .blocks.fixed import emit_resampled, resampled
from .blocks.neural import emit_floats
from .blocks.qformer_layers import HasQueryLayers

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..ir_tools.builder import Builder


@compressor(
    "qformer",
    family="query",
    modalities=("image", "video", "audio"),
    merges=False,
    source="BLIP-2, arXiv 2301.12597",
    summary="learned queries read the tokens by cross-attention; weights from a file",
    positions=False,
    heavy="a network of twelve layers",
)
@dataclass(frozen=True)
class Qformer(HasQueryLayers):
    """The Q-Former."""

    examples = (Example(Case(13, 5, 4), layers=3, heads=2, channels=6),)

    def shapes(self, case: Case) -> dict[str, tuple[int, ...]]:
        """Those of K queries."""
        return self.of_queries(case.keep).shapes(case.dim)

    def check(self, case: Case) -> None:
        """1 <= K <= N, and valid layer sizes."""
        select.check_keep(case)
        self.of_queries(case.keep).check()

    def reference(self, case: Case, tokens: torch.Tensor, **w: torch.Tensor) -> Compressed[torch.Tensor]:
        """The layers."""
        w = {name: value.float() for name, value in w.items()}
        return resampled(case, tokens, self.of_queries(case.keep).run(tokens.float(), w))

    def onnx(self, b: Builder, case: Case, tokens: ir.Value, **w: ir.Value) -> Compressed[ir.Value]:
        """The layers."""
        x = select.emit_float(b, tokens, case)
        return emit_resampled(b, case, tokens, self.of_queries(case.keep).emit(b, x, emit_floats(b, w, case)))
