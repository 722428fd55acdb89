"""Embeddings of words with an id that stands for something else."""

from __future__ import annotations

import torch
from torch import Tensor, nn


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
