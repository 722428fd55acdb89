"""Where the tokens of several images stand in a sequence, and the words between them, as graphs compute it.

A graph is made for a number of images, I, of K tokens each, and for prompts of P ids beside them. An input says where
each begins, `image_starts` [B, I] int64, in ascending order: one that begins behind the end of the sequence is not
there. So a prompt may have any of its words between images, and fewer images than I.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Places:
    """Of each place in a sequence of L.

    Attributes:
        begun: [B, L] int64, how many images begin at it or before it.
        inside: [B, L] bool, whether a token of an image stands there.
        start: [B, L] int64, where the last of those that have begun does; of no meaning before the first.
        keep: K.
    """

    begun: Tensor
    inside: Tensor
    start: Tensor
    keep: int

    @classmethod
    def of(cls, image_starts: Tensor, keep: int, length: int) -> Places:
        """For images of K = `keep` tokens each, in a sequence of L = `length`."""
        place = torch.arange(length)[None]
        begun = (place[..., None] >= image_starts[:, None]).sum(-1)
        start = image_starts.gather(1, (begun - 1).clamp(min=0))
        return cls(begun, (begun > 0) & (place < start + keep), start, keep)

    def rows(self, words: int) -> Tensor:
        """[B, L] int64: what stands there, counted in P = `words` ids and the tokens of all images behind them.

        Behind the last id that is the last id again.
        """
        place = torch.arange(self.begun.shape[1])[None]
        of_image = words + (self.begun - 1) * self.keep + place - self.start
        return torch.where(self.inside, of_image, (place - self.begun * self.keep).clamp(0, words - 1))

    def tokens(self) -> Tensor:
        """[B, L] int64: which of the tokens of all images stands there; of no meaning where none does."""
        return (self.rows(1) - 1).clamp(min=0)

    def woven(self, words: Tensor, images: Tensor) -> Tensor:
        """Values of words [B, P, ...] and of the tokens of images [B, I K, ...], in their places [B, L, ...]."""
        rows = self.rows(words.shape[1])
        rows = rows.reshape(*rows.shape, *[1] * (words.ndim - 2)).expand(-1, -1, *words.shape[2:])
        return torch.cat([words, images], 1).gather(1, rows)

    def positions(self, of_tokens: Tensor, advance: int) -> Tensor:
        """[R, B, L] for the rotary embedding.

        Args:
            of_tokens: [R, B, I K], of each token from the first position of its image; K may be 0.
            advance: by how many positions an image moves what is behind it.
        """
        place = torch.arange(self.begun.shape[1])[None]
        if not self.keep:
            return (place + self.begun * advance).expand(len(of_tokens), -1, -1)
        rows = self.tokens().expand(len(of_tokens), -1, -1)
        begins = self.start + (self.begun - 1) * (advance - self.keep)
        of_words = place + self.begun * (advance - self.keep)
        return torch.where(self.inside, begins + of_tokens.gather(2, rows), of_words)

    def same_image(self) -> Tensor:
        """[B, 1, L, L] bool: whether two places are of tokens of one image."""
        number = torch.where(self.inside, self.begun, 0)
        return ((number[:, :, None] == number[:, None]) & self.inside[:, :, None])[:, None]
