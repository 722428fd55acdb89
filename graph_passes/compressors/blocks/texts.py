"""Shared by methods that read text: the text itself, and the similarity of each token to it.

A text is `text` [B, L, D]: the embeddings of a prompt in the embedding space of the tokens, one per row. After a
projector that is the language model's own input embedding. A row of zeros is padding and is ignored. For a text of
padding alone every similarity is 0.

The kept tokens depend on the question, so they cannot be cached over the turns of a dialogue.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ....errors import RequestError
from ..base import Compressor
from .cosine import emit_unit

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ...ir_tools.builder import Builder


TEXT = "text"  # the signal, and the graph input


@dataclass(frozen=True)
class ReadsText:
    """The parameter of every method that reads text.

    Attributes:
        text_length: L, rows of the graph's input ``text``; a shorter prompt is padded with rows of zeros.
    """

    text_length: int = 64

    def __post_init__(self) -> None:
        if self.text_length < 1:
            raise RequestError(
                f"text_length {self.text_length} leaves no text",
                fix="Use --set text_length=64, or your longest prompt.",
            )

    def signals(self) -> tuple[str, ...]:
        """``text`` [B, L, D]."""
        return (TEXT,)


@dataclass(frozen=True)
class RanksByText(ReadsText):
    """The parameters of a method that was released for CLIP.

    Attributes:
        inverted: whether the tokens least similar to the text rank first, as released: CLIP patches of the object a
            text names are less similar to it than the others. False for a space in which related tokens are similar.
    """

    inverted: bool = True

    def signed(self, likeness: torch.Tensor) -> torch.Tensor:
        """The similarity [B, N] with the sign used for ranking."""
        return -likeness if self.inverted else likeness

    def emit_signed(self, b: Builder, likeness: ir.Value) -> ir.Value:
        """As `signed`."""
        return b.op("Neg", likeness) if self.inverted else likeness


def text_length(compressor: Compressor) -> int:
    """L of a compressor that reads text; 0 for all others.

    Raises:
        RequestError: it reads text and does not define its length.
    """
    if TEXT not in compressor.signals():
        return 0
    if not isinstance(compressor, ReadsText):
        raise RequestError(
            f"method {compressor.method.name!r} reads text and does not define its number of rows",
            fix="Derive its class from graph_passes.compressors.texts.ReadsText.",
        )
    return compressor.text_length


def rows_of(text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The text [B, L, D] float32, and which of its rows are not padding [B, L] bool."""
    return text.float(), (text != 0).any(2)


def mean_product(tokens: torch.Tensor, text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean over the rows of a text of their product with each token.

    Args:
        tokens: [B, N, D].
        text: [B, L, D].

    Returns:
        [B, N] float32, and what its rounding is relative to.
    """
    x, (rows, real) = tokens.float(), rows_of(text)
    count = real.sum(1, keepdim=True).clamp(min=1)
    # Token by token, so that equal tokens have bitwise equal similarities.
    mean = rows.sum(1) / count
    return (x * mean[:, None]).sum(2), x.norm(dim=2) * rows.norm(dim=2).sum(1, keepdim=True) / count


def mean_cosine(tokens: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """Mean [B, N] over the rows of a text [B, L, D] of their cosine with each token of [B, N, D], float32."""
    from torch.nn.functional import normalize

    return mean_product(normalize(tokens.float(), dim=2), normalize(text.float(), dim=2))[0]


def emit_rows_of(b: Builder, text: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
    """The text [B, L, D] float32, which rows are not padding [B, L, 1] bool, and their number [B, 1, 1], at least 1."""
    rows = b.cast(text, "float32")
    real = b.op("Greater", b.op("ReduceMax", b.op("Abs", rows), [2], keepdims=1), 0.0)
    count = b.op("ReduceSum", b.cast(real, "float32"), [1], keepdims=1)
    return rows, real, b.op("Max", count, 1.0)


def emit_mean_product(b: Builder, x: ir.Value, text: ir.Value, *, unit: bool = False) -> ir.Value:
    """As `mean_product`, [B, N], for x [B, N, D] float32; with `unit` for rows of length 1."""
    rows, _, count = emit_rows_of(b, text)
    if unit:
        rows = emit_unit(b, rows)
    mean = b.op("Div", b.op("ReduceSum", rows, [1], keepdims=1), count)
    return b.op("ReduceSum", b.op("Mul", x, mean), [2], keepdims=0)


def emit_mean_cosine(b: Builder, x: ir.Value, text: ir.Value) -> ir.Value:
    """As `mean_cosine`, for x [B, N, D] float32."""
    return emit_mean_product(b, emit_unit(b, x), text, unit=True)
