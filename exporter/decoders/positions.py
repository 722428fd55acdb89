"""Where the tokens of an image stand for the rotary embedding of a language model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Positions:
    """Where the tokens of an image stand for the rotary embedding, counted from the image's first one.

    Attributes:
        rows: int64 [R, N], R = 1 but for models that rotate by several axes.
        advance: by how many positions the image moves the text behind it: N, or fewer where rows share positions.
    """

    rows: Tensor
    advance: int

    @classmethod
    def in_a_row(cls, tokens: int) -> Positions:
        """One position for each of N tokens."""
        return cls(torch.arange(tokens)[None], tokens)

    def with_text(self, kept: Tensor, offset: int, length: int) -> Tensor:
        """[R, B, P + K] of the sequence: `offset` ids, the kept tokens [B, K], and the other ids of P = `length`."""
        text = torch.arange(length)
        text = torch.where(text < offset, text, text + self.advance).expand(len(self.rows), len(kept), -1)
        if not kept.shape[1]:
            return text
        image = self.rows[:, kept] + offset
        return torch.cat([text[..., :offset], image, text[..., offset:]], -1)


def axes(positions: Tensor) -> Tensor:
    """[R, B, L] as models take it, which is [B, L] where R is 1."""
    return positions[0] if len(positions) == 1 else positions
