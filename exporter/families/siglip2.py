"""The first layer of SigLIP 2 for pictures of one size, where transformers takes patches of pictures of any shape."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Patches(nn.Module):
    """Pixels to patches with their positions.

    Args:
        own: transformers' module, whose linear layer becomes a convolution: a patch is rows, columns, channels there.
        grid: of patches, (rows, columns), to which learned positions are stretched; None: as many as there are.
    """

    def __init__(self, own: Any, grid: tuple[int, int] | None = None) -> None:
        super().__init__()
        side, weight = own.patch_size, own.patch_embedding.weight
        self.weight = nn.Parameter(weight.unflatten(1, (side, side, -1)).permute(0, 3, 1, 2), requires_grad=False)
        self.bias, self.positions = own.patch_embedding.bias, own.position_embedding.weight
        rows = own.position_embedding_size
        if grid not in (None, (rows, rows)):
            table = self.positions.detach().unflatten(0, (rows, rows))
            stretched = own.resize_positional_embeddings(table, torch.tensor([grid]), grid[0] * grid[1])[0]
            self.positions = nn.Parameter(stretched, requires_grad=False)

    def forward(self, pixel_values: Tensor, *_: Any) -> Tensor:
        """[1, C, H, W] -> [1, N, D]."""
        x = F.conv2d(pixel_values, self.weight, self.bias, stride=self.weight.shape[2:])
        return x.flatten(2).transpose(1, 2) + self.positions
