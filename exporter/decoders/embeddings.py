"""The graph embed, and embeddings of words with an id that stands for something else."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .several import Places


class WithZero(nn.Module):
    """An embedding that reads one id as id 0."""

    def __init__(self, own: nn.Module, as_zero: int) -> None:
        super().__init__()
        self.own, self.as_zero = own, as_zero

    def forward(self, input_ids: Tensor) -> Tensor:
        """See the class."""
        return self.own(input_ids.masked_fill(input_ids == self.as_zero, 0))


class WithToken(nn.Module):
    """An embedding that gives a learned token [D] for one id."""

    token: Tensor

    def __init__(self, own: nn.Module, stands: int, token: Tensor) -> None:
        super().__init__()
        self.own, self.stands = own, stands
        self.register_buffer("token", token.detach(), persistent=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        """See the class."""
        return torch.where((input_ids == self.stands)[..., None], self.token, self.own(input_ids))


class Embed(nn.Module):
    """input_ids [B, P] int64, tokens [B, I K, D], of several images image_starts [B, I] int64 -> inputs_embeds
    [B, P + I K, D]; the tokens of one image stand behind `offset` ids.

    Where tokens have further channels, those of words are zero.
    """

    def __init__(self, embedding: nn.Module, offset: int, keep: int) -> None:
        super().__init__()
        self.embedding, self.offset, self.keep = embedding, offset, keep

    def forward(self, input_ids: Tensor, tokens: Tensor, image_starts: Tensor | None = None) -> Tensor:
        """See the class."""
        words = self.embedding(input_ids)
        if further := tokens.shape[2] - words.shape[2]:
            words = F.pad(words, (0, further))
        if image_starts is not None:
            return Places.of(image_starts, self.keep, words.shape[1] + tokens.shape[1]).woven(words, tokens)
        return torch.cat([words[:, : self.offset], tokens, words[:, self.offset :]], 1)
