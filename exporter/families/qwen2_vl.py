"""Qwen2-VL: a ViT whose queries and keys rotate by row and column, and a merger of 2 x 2 patches.

    pixel_values [1, 3, H, W] float32 -> tokens [1, N, D], N = (H / 2 patch) (W / 2 patch), D of the language model

The model takes images of any size, and orders patches and makes rotary tables from it. A graph has one size, so all of
that is computed once. The tokens stand among the words of the language model; see `visual`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Qwen2VLConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import (
    Qwen2VisionTransformerPretrainedModel,
    Qwen2VLModel,
    apply_rotary_pos_emb_vision,
)
from transformers.vision_utils import get_vision_position_ids

from ...errors import RequestError
from ..decoders.language import Positions
from ..sources.configuration import Layers, Pixels, Vocabulary, Width, built, typed
from ..sources.images import preprocess_of
from ..sources.source import GraphSource
from ..sources.weights import without_weights
from .visual import Layout, VisionLanguage

if TYPE_CHECKING:
    from pathlib import Path

    from ..sources.checkpoint import Checkpoint

_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_PLACEHOLDER = "<|image_pad|>"

# Of the side of the square that images become, where the folder's limits allow it: a size at which these models read
# text of a page's headlines, with a number of tokens (256) that small devices hold.
_SIDE = 448

_Area = Annotated[int, Field(ge=1, le=1 << 32)]
_Merge = Annotated[int, Field(ge=1, le=16)]


class _Vision(BaseModel):
    """What is read of the vision tower; what is not there has the default of transformers."""

    patch_size: Pixels | None = None
    temporal_patch_size: _Merge | None = None
    spatial_merge_size: _Merge | None = None
    in_channels: _Merge | None = None
    embed_dim: Width | None = None
    hidden_size: Width | None = None
    depth: Layers | None = None
    num_heads: Width | None = None


class _Text(BaseModel):
    """What is read of the language model."""

    hidden_size: Width | None = None
    intermediate_size: Width | None = None
    vocab_size: Vocabulary | None = None
    num_hidden_layers: Layers | None = None
    use_sliding_window: bool | None = None


class _Config(_Text):
    """What is read of config.json; folders of the hub hold the language model's values beside the vision tower's."""

    hidden_size: Width | None = None
    vision_config: _Vision | None = None
    text_config: _Text | None = None


class _Limits(BaseModel):
    """What is read of the image processor beside the colours, in pixels of a whole image; by old and new names."""

    min_pixels: _Area | None = None
    max_pixels: _Area | None = None
    shortest_edge: _Area | None = None
    longest_edge: _Area | None = None


class _Processor(_Limits):
    """Its defaults are those of transformers."""

    size: _Limits = _Limits()
    patch_size: Pixels | None = None
    merge_size: _Merge | None = None

    @property
    def area(self) -> tuple[int, int]:
        """Fewest and most pixels."""
        fewest = self.min_pixels or self.size.min_pixels or self.size.shortest_edge or 56 * 56
        return fewest, self.max_pixels or self.size.max_pixels or self.size.longest_edge or 28 * 28 * 1280


class Patches(nn.Module):
    """pixel_values [B, C, H, W] -> patches [B, L, D], those that are merged behind each other.

    Args:
        convolution: of patches of several frames. A still image is all of them, so its kernel is summed over time.
        merge: patches of a side that are merged.
    """

    def __init__(self, convolution: nn.Conv3d, merge: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(convolution.weight.sum(2), requires_grad=False)
        self.bias, self.merge = convolution.bias, merge

    def forward(self, pixel_values: Tensor) -> Tensor:
        """See the class."""
        x = F.conv2d(pixel_values, self.weight, self.bias, stride=self.weight.shape[2:])
        x = x.unflatten(3, (-1, self.merge)).unflatten(2, (-1, self.merge))
        return x.permute(0, 2, 4, 3, 5, 1).flatten(1, 4)


class Attention(nn.Module):
    """Of a block: every patch sees every other. The model's own cuts a row of several images by their lengths."""

    def __init__(self, own: Any) -> None:
        super().__init__()
        self.qkv, self.proj, self.heads = own.qkv, own.proj, own.num_heads

    def forward(self, hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor], **_: Any) -> Tensor:
        """[B, L, D] and two tables [L, d] -> [B, L, D]."""
        query, key, value = self.qkv(hidden_states).unflatten(2, (3, self.heads, -1)).unbind(2)
        query, key = apply_rotary_pos_emb_vision(query, key, *position_embeddings)
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))
        return self.proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class QwenEncoder(nn.Module):
    """What `Qwen2VLModel.get_image_features` computes, for images of one size.

    Args:
        visual: the vision tower, with its weights.
        grid: of patches, (rows, columns).
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, visual: Any, grid: tuple[int, int]) -> None:
        super().__init__()
        merge = visual.spatial_merge_size
        self.patch_embed = Patches(visual.patch_embed.proj, merge)
        self.blocks, self.merger = visual.blocks, visual.merger
        places = get_vision_position_ids(torch.tensor([[1, *grid]]), merge)
        for name, table in zip(("cos", "sin"), visual.rotary_pos_emb(torch.zeros(1), places), strict=True):
            self.register_buffer(name, table, persistent=False)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[1, 3, H, W] float32 -> [1, N, D]."""
        x = self.patch_embed(pixel_values)
        for block in self.blocks:
            x = block(x, cu_seqlens=None, position_embeddings=(self.cos, self.sin))
        return self.merger(x).unflatten(0, (len(pixel_values), -1))


class _Index(Qwen2VLModel):
    """The model without its parts: `get_rope_index` reads its configuration alone."""

    def __init__(self, config: Qwen2VLConfig) -> None:
        nn.Module.__init__(self)
        self.config = config


@dataclass
class QwenSource(VisionLanguage):
    """A Qwen2-VL folder; see the module docstring."""

    @property
    def tokens(self) -> int:
        """N: one for each 2 x 2 patches."""
        assert self.encoder.grid is not None
        return math.prod(self.encoder.grid)

    @cached_property
    def _positions(self) -> Positions:
        # An image, and a word behind it, which stands where the image has moved it.
        kinds = torch.tensor([[1] * self.tokens + [0]])
        merge = self.config.vision_config.spatial_merge_size
        grid = torch.tensor([[1, *(merge * side for side in self.encoder.grid or ())]])
        rows, _ = _Index(self.config).get_rope_index(torch.zeros_like(kinds), kinds, image_grid_thw=grid)
        return Positions(rows[:, 0, :-1], int(rows[0, 0, -1]))

    def positions(self) -> Positions:
        """Time, row and column of each token."""
        return self._positions


def open_family(checkpoint: Checkpoint) -> QwenSource:
    """Open the image encoder of a Qwen2VLForConditionalGeneration folder.

    Raises:
        RequestError: the image processor allows no square, or cuts other patches than the encoder; the language model
            has sliding windows; weights that do not belong to config.json.
    """
    path = checkpoint.folder / "config.json"
    typed(_Config, checkpoint.config, path)
    config = built(lambda: Qwen2VLConfig.from_dict(checkpoint.config), path)
    vision: Any = config.vision_config
    _check_windows(config.get_text_config(), path)
    side = _side(checkpoint, vision)
    with without_weights():
        visual = built(lambda: Qwen2VisionTransformerPretrainedModel(vision), path)
    for block in visual.blocks:
        block.attn = Attention(block.attn)
    checkpoint.weights.load(visual, "visual")
    patches, tokens = side // vision.patch_size, side // (vision.patch_size * vision.spatial_merge_size)
    preprocess = preprocess_of(checkpoint, (side, side), squeezed=True)
    mean, std = (preprocess.mean, preprocess.std) if preprocess else (_MEAN, _STD)
    source = QwenSource(
        kind="checkpoint",
        name=checkpoint.name,
        modality="image",
        encoder=GraphSource(
            role="encoder",
            module=QwenEncoder(visual, (patches, patches)).eval(),
            inputs={"pixel_values": torch.zeros(1, vision.in_channels, side, side)},
            outputs=("tokens",),
            grid=(tokens, tokens),
        ),
        files=checkpoint.weights.files,
        # Before the merger four neighbours are one token, so none can be removed.
        auto_seam=dict.fromkeys(("encoder_output", "projector_input", "projector_output"), "projector_output"),
        preprocess=preprocess,
        notes=(f"every image is stretched to {side} x {side} pixels, which are {tokens**2} tokens",),
        config=config,
        checkpoint=checkpoint,
        layout=Layout(language_keys=("language_model", "model"), mark=_PLACEHOLDER, becomes=_PLACEHOLDER),
        placeholder=config.image_token_id,
        mean=mean,
        std=std,
    )
    return source.opened("projector_output")


def _check_windows(text: Any, path: Path) -> None:
    """Refuse attention that a mask of the whole sequence does not describe."""
    if "sliding_attention" in (getattr(text, "layer_types", None) or ()):
        raise RequestError(
            "use_sliding_window of config.json is true, and the language graphs see whole sequences",
            where=str(path),
            fix="Set it to false: released models of this family say so.",
        )


def _side(checkpoint: Checkpoint, vision: Any) -> int:
    """Of the square, in pixels."""
    path, found = checkpoint.optional("preprocessor_config.json", "processor_config.json")
    processor: _Processor = typed(_Processor, found.get("image_processor", found), path)
    for name, cut, own in (
        ("patch_size", processor.patch_size, vision.patch_size),
        ("merge_size", processor.merge_size, vision.spatial_merge_size),
    ):
        if cut not in (None, own):
            raise RequestError(
                f"{name} of {path.name} is {cut}, and the encoder of config.json has {own}",
                where=str(path),
                fix="Its files belong to different models: download the folder again.",
            )
    step, (fewest, most) = vision.patch_size * vision.spatial_merge_size, processor.area
    smallest, largest = math.ceil(math.sqrt(fewest) / step) * step, math.isqrt(most) // step * step
    if not 0 < smallest <= largest:
        raise RequestError(
            f"no square whose side is a multiple of {step} has {fewest} to {most} pixels, as {path.name} wants",
            where=str(path),
            fix=f"Raise its largest number of pixels (max_pixels, or longest_edge of size) to {smallest**2}.",
        )
    return min(max(_SIDE // step * step, smallest), largest)
