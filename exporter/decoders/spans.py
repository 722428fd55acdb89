"""Where the tokens stand that compressors between layers read and replace: of one image, or of each of several.

A compressor sees the tokens of each image by itself, as a batch: below, E is B for one image and B I for I of them. The
words that read the tokens of an image are those behind it, other images left out. In the place of an image that is not
in a prompt its first one is read again, so that no value is nonsense; what is left of it goes nowhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .several import Places


@dataclass(frozen=True)
class Span:
    """Of one image.

    Attributes:
        offset: ids before its tokens.
        keep: K, of these.
    """

    offset: int
    keep: int

    @property
    def _end(self) -> int:
        return self.offset + self.keep

    def tokens(self, hidden: Tensor) -> Tensor:
        """[B, L, C] -> [E, K, C]."""
        return hidden[:, self.offset : self._end]

    def readers(self, hidden: Tensor) -> Tensor:
        """[B, L, C] -> [E, W, C] of the words that may read the tokens; see `real`."""
        return hidden[:, self._end :]

    def real(self, length: int, last: Tensor) -> Tensor:
        """[E, W] bool: which of these are behind the tokens and no padding, in L = `length` up to `last` [B]."""
        return torch.arange(self._end, length) <= last[:, None]

    def rows(self, heads: Tensor) -> Tensor:
        """[B, H, L, C] -> [B, H, W, C] of these words."""
        return heads[:, :, self._end :]

    def paid(self, weights: Tensor, over: Callable[[Tensor], Tensor]) -> Tensor:
        """[B, R, L] that rows pay the sequence -> [E, K] of the tokens, `over` the rows [E, R, n] -> [E, n]."""
        return over(weights)[:, self.offset : self._end]

    def each(self, values: Tensor) -> Tensor:
        """[B, I K] -> [E, K]."""
        return values

    def together(self, values: Tensor) -> Tensor:
        """[E, K, ...] -> [B, I K, ...]."""
        return values

    def replaced(self, hidden: Tensor, tokens: Tensor | None) -> Tensor:
        """[B, L, C] with other tokens [E, n, C] in their places, or with none."""
        left = [] if tokens is None else [tokens]
        return torch.cat([hidden[:, : self.offset], *left, hidden[:, self._end :]], 1)

    def behind(self, last: Tensor, left: int) -> tuple[Tensor, Tensor | None]:
        """Where `left` tokens of each remain: the place of the prompt's last id [B], and where images begin [B, I]."""
        return shorter(last, self.keep - left), None


@dataclass(frozen=True)
class Spans(Span):
    """Of I images.

    Attributes:
        offset: of no meaning.
        starts: [B, I] int64, where each begins; behind the end of the sequence where it is not there.
        length: L.
    """

    starts: Tensor
    length: int

    @property
    def _places(self) -> Tensor:
        """[B, I] int64, that of the first image for one that is not there."""
        return torch.where(self.starts < self.length, self.starts, self.starts[:, :1])

    def _columns(self) -> Tensor:
        """[B, I K] int64, the place of each token."""
        return (self._places[..., None] + torch.arange(self.keep)).flatten(1)

    def _words(self) -> Tensor:
        """[B, P] int64, the place of each word."""
        word = torch.arange(self.length - self.starts.shape[1] * self.keep)[None]
        return word + self.keep * (word[..., None] >= behind(self.starts, self.keep)[:, None]).sum(-1)

    def tokens(self, hidden: Tensor) -> Tensor:
        """See `Span`."""
        return self._apart(_taken(hidden, self._columns()))

    def readers(self, hidden: Tensor) -> Tensor:
        """See `Span`; W = P, all words of a prompt."""
        return _taken(hidden, self._words()).repeat_interleave(self.starts.shape[1], 0)

    def real(self, length: int, last: Tensor) -> Tensor:
        """See `Span`."""
        words = self._words()[:, None]
        real = (words >= self._places[..., None] + self.keep) & (words <= last[:, None, None])
        return real.flatten(0, 1)

    def rows(self, heads: Tensor) -> Tensor:
        """See `Span`."""
        words = self._words()[:, None, :, None]
        return heads.gather(2, words.expand(-1, heads.shape[1], -1, heads.shape[3]))

    def paid(self, weights: Tensor, over: Callable[[Tensor], Tensor]) -> Tensor:
        """See `Span`."""
        columns = self._columns()[:, None].expand(-1, weights.shape[1], -1)
        mine = weights.gather(2, columns).unflatten(2, (-1, self.keep))
        return over(mine.transpose(1, 2).flatten(0, 1))

    def each(self, values: Tensor) -> Tensor:
        """See `Span`."""
        return self._apart(values)

    def together(self, values: Tensor) -> Tensor:
        """See `Span`."""
        return values.unflatten(0, (-1, self.starts.shape[1])).flatten(1, 2)

    def replaced(self, hidden: Tensor, tokens: Tensor | None) -> Tensor:
        """See `Span`."""
        words = _taken(hidden, self._words())
        if tokens is None:
            return words
        left, images = tokens.shape[1], self.together(tokens)
        starts = behind(self.starts, self.keep - left)
        return Places.of(starts, left, words.shape[1] + images.shape[1]).woven(words, images)

    def behind(self, last: Tensor, left: int) -> tuple[Tensor, Tensor | None]:
        """See `Span`."""
        removed = self.keep - left
        # A prompt may end in an image of one token.
        return shorter(last[:, None] + 1, removed, self.starts)[:, 0] - 1, behind(self.starts, removed)

    def _apart(self, values: Tensor) -> Tensor:
        return values.unflatten(1, (-1, self.keep)).flatten(0, 1)


def behind(starts: Tensor, removed: int) -> Tensor:
    """Where images [B, I] begin, once each has `removed` tokens fewer."""
    return starts - removed * torch.arange(starts.shape[1]) if removed else starts


def passed(starts: Tensor, index: Tensor) -> Tensor:
    """[B, 1] int64: how many of the images [B, I] begin in front of a place [B, 1]."""
    return (starts < index).sum(1, keepdim=True)


def shorter(index: Tensor, removed: int, starts: Tensor | None = None) -> Tensor:
    """A place behind all images, [B], or with the `starts` of several [B, 1], once each has `removed` tokens fewer."""
    if starts is None or not removed:
        return index - removed
    return index - removed * passed(starts, index)


def _taken(hidden: Tensor, rows: Tensor) -> Tensor:
    """The rows [B, n] of [B, L, C]."""
    return hidden.gather(1, rows[..., None].expand(-1, -1, hidden.shape[2]))
