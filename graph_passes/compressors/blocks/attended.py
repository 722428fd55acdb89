"""The attention a method ranks by: that of CLS or, for models without CLS, the attention each token receives; between
the layers of a language model that of words.

Both come from the last attention before the seam, mean over heads, [B, N] float32. Papers on CLIP read the CLS row; on
SigLIP, Qwen and audio, which have no CLS, they use the mean over all queries. In a language model what is read as that
of CLS is that of the prompt's last id. Attention is a signal and not computed
here, so a ranking by it does not depend on rounding: implementations must agree on it exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..base import Case, Compressed
from . import select

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ...ir_tools.builder import Builder


Attention = Literal["cls", "received", "words", "raters", "peak"]
# Signals that are only where there are words.
OF_WORDS = ("words_attention", "raters_attention", "peak_attention")


@dataclass(frozen=True)
class Attends:
    """The parameter of every method that ranks by attention.

    Attributes:
        attention: ``cls``, the attention of CLS to each token; ``received``, what each token receives from all, CLS
            included. Between the layers of a language model: ``cls``, that of the prompt's last id; ``words``, the mean
            of the words behind the tokens; ``raters``, of those words that SparseVLM has rate; ``peak``, the largest of
            all words and heads.
    """

    attention: Attention = "cls"

    def signals(self) -> tuple[str, ...]:
        """``<attention>_attention`` [B, N]."""
        return (f"{self.attention}_attention",)

    def attended(self, signals: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """[B, N] float32."""
        return signals[f"{self.attention}_attention"].float()

    def emit_attended(self, b: Builder, signals: Mapping[str, ir.Value]) -> ir.Value:
        """[B, N] float32."""
        return b.cast(signals[f"{self.attention}_attention"], "float32")


def keep_highest(tokens: torch.Tensor, scores: torch.Tensor, k: int) -> Compressed[torch.Tensor]:
    """Keep the k tokens of the highest scores [B, N] unchanged, in spatial order."""
    return select.selection(tokens, select.top_k(scores, k).sort(dim=1).values)


def emit_keep_highest(b: Builder, case: Case, tokens: ir.Value, scores: ir.Value) -> Compressed[ir.Value]:
    """Keep the K tokens of the highest scores [B, N] float32 unchanged, in spatial order."""
    _, best = select.emit_top_k(b, scores, case.keep, case.tokens)
    kept, _ = select.emit_sort(b, best, case.keep)
    return select.emit_selection(b, case, tokens, kept)
