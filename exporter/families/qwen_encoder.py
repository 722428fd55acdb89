"""The encoder of Qwen's vision-language models, for images of one size, or for videos of so many frames of one.

    pixel_values [B, C, H, W], of a video [B, T, C, H, W] float32 -> tokens [B, N, (1 + n) D]

transformers computes from an image's size in which order its patches stand, how they rotate, which window they belong
to and how learned positions are stretched. Here all of that is computed once. The modules of the blocks and mergers
are transformers' own. A patch of a video is one of several frames, and sees those of the same frames alone. D is that
of the language model; n is 0 but for Qwen3-VL, whose further channels (DeepStack) are added behind the first n layers
of its language model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.qwen2_vl.modeling_qwen2_vl import apply_rotary_pos_emb_vision
from transformers.vision_utils import (
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
    get_vision_window_index,
)


class Patches(nn.Module):
    """pixel_values [B, C, H, W] or [B, T, C, H, W] -> patches [B, L, D], those that are merged behind each other.

    Args:
        convolution: of patches of several frames. A still image is all of them, so its kernel is summed over time.
        merge: patches of a side that are merged.
        clip: whether there are frames; then they are channels of the picture that a patch is cut from.
    """

    def __init__(self, convolution: nn.Conv3d, merge: int, *, clip: bool) -> None:
        super().__init__()
        own = convolution.weight
        self.weight = nn.Parameter(own.transpose(1, 2).flatten(1, 2) if clip else own.sum(2), requires_grad=False)
        self.bias, self.merge, self.clip = convolution.bias, merge, clip

    def forward(self, pixel_values: Tensor) -> Tensor:
        """See the class."""
        x = pixel_values
        if self.clip:
            x = x.reshape(-1, self.weight.shape[1], *x.shape[3:])
        x = F.conv2d(x, self.weight, self.bias, stride=self.weight.shape[2:])
        x = x.unflatten(3, (-1, self.merge)).unflatten(2, (-1, self.merge))
        x = x.permute(0, 2, 4, 3, 5, 1).flatten(1, 4)
        return x.reshape(len(pixel_values), -1, x.shape[2]) if self.clip else x


class Attention(nn.Module):
    """Of a block: every patch sees every other of its window.

    transformers' own cuts a row of images or windows by their lengths, one after the other: here windows are equal, and
    become a batch.
    """

    def __init__(self, own: Any) -> None:
        super().__init__()
        self.qkv, self.proj, self.heads = own.qkv, own.proj, own.num_heads

    def forward(
        self, hidden_states: Tensor, cu_seqlens: int, position_embeddings: tuple[Tensor, Tensor], **_: Any
    ) -> Tensor:
        """[B, L, D], the number of windows, and two tables [L, d] -> [B, L, D]."""
        query, key, value = self.qkv(hidden_states).unflatten(2, (3, self.heads, -1)).unbind(2)
        query, key = apply_rotary_pos_emb_vision(query, key, *position_embeddings)
        parts = (query, key, value)
        if cu_seqlens > 1:
            parts = tuple(x.unflatten(1, (cu_seqlens, -1)).flatten(0, 1) for x in parts)
        out = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in parts)).transpose(1, 2).flatten(2)
        return self.proj(out.reshape(hidden_states.shape))


class Merger(nn.Module):
    """The last hidden states, then those of the n layers that go on beside them, each [B, L, D'] -> [B, N, (1 + n) D].

    One module, so that tokens are removed or merged with all that belongs to them.
    """

    def __init__(self, last: nn.Module, further: nn.ModuleList) -> None:
        super().__init__()
        self.last, self.further = last, further

    def forward(self, *states: Tensor) -> Tensor:
        """See the class."""
        merged = [
            merge(x).unflatten(0, (len(x), -1)) for merge, x in zip((self.last, *self.further), states, strict=True)
        ]
        return torch.cat(merged, -1) if len(merged) > 1 else merged[0]


class QwenEncoder(nn.Module):
    """See the module docstring.

    Args:
        visual: the vision tower of transformers with its weights.
        grid: of patches, (rows, columns); with windows, a multiple of them.
        times: of patches of a video, one behind the other; 0: it takes images.
    """

    cos: Tensor
    sin: Tensor
    order: Tensor
    back: Tensor

    def __init__(self, visual: Any, grid: tuple[int, int], times: int = 0) -> None:
        super().__init__()
        whole, merge = torch.tensor([[times or 1, *grid]]), visual.spatial_merge_size
        self.group = merge**2
        self.patch_embed = Patches(visual.patch_embed.proj, merge, clip=times > 0)
        self.blocks = visual.blocks
        for block in self.blocks:
            # An encoder for another size may have the same blocks.
            if not isinstance(block.attn, Attention):
                block.attn = Attention(block.attn)
        further = dict(
            zip(getattr(visual, "deepstack_visual_indexes", ()), getattr(visual, "deepstack_merger_list", ()))
        )
        self.further = sorted(further)
        self.merger = Merger(visual.merger, nn.ModuleList(further[i] for i in self.further))
        self.learned = self._learned(visual, whole)
        places = get_vision_position_ids(whole, merge)
        self.windows, self.windowed = [times or 1] * len(self.blocks), False
        if window := getattr(visual, "window_size", None):
            order, ends = get_vision_window_index(whole, merge, window, visual.patch_size)
            assert len({*ends.diff().tolist()}) == 1, "images are a whole number of windows"
            full = visual.fullatt_block_indexes
            self.windowed = len(ends) - 1 > (times or 1)
            self.windows = [times or 1 if i in full else len(ends) - 1 for i in range(len(self.blocks))]
            self.register_buffer("order", order, persistent=False)
            self.register_buffer("back", order.argsort(), persistent=False)
            places = places.unflatten(0, (-1, self.group))[order].flatten(0, 1)
        for name, table in zip(("cos", "sin"), visual.rotary_pos_emb(torch.zeros(1), places), strict=True):
            self.register_buffer(name, table, persistent=False)

    @staticmethod
    def _learned(visual: Any, whole: Tensor) -> nn.Parameter | None:
        """Learned positions [L, D'], stretched to the image, where the model has such."""
        if not hasattr(visual, "pos_embed"):
            return None
        indices, shares = get_vision_interpolation_indices_and_weights(
            whole,
            num_grid_per_side=visual.num_grid_per_side,
            mode=visual.interpolation_mode,
            align_corners=visual.interpolation_align_corners,
            spatial_merge_size=visual.spatial_merge_size,
        )
        return nn.Parameter((visual.pos_embed(indices) * shares[:, :, None]).sum(1), requires_grad=False)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[B, C, H, W] or [B, T, C, H, W] float32 -> [B, N, (1 + n) D]."""
        x = self.patch_embed(pixel_values)
        if self.learned is not None:
            x = x + self.learned
        if self.windowed:
            x = self._moved(x, self.order)
        states: list[Tensor] = []
        for i, (block, windows) in enumerate(zip(self.blocks, self.windows)):
            x = block(x, cu_seqlens=windows, position_embeddings=(self.cos, self.sin))
            if i in self.further:
                states.append(x)
        # In front of the merger and not behind it: what leaves it must stand in the order of the image.
        return self.merger(self._moved(x, self.back) if self.windowed else x, *states)

    def _moved(self, x: Tensor, order: Tensor) -> Tensor:
        """[B, L, D'] in another order of its groups of merged patches."""
        return x.unflatten(1, (-1, self.group)).index_select(1, order).flatten(1, 2)
