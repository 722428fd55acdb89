"""Qwen2-VL, Qwen2.5-VL, Qwen3-VL, Qwen3.5: a ViT whose queries and keys rotate by row and column, a merger of patches.

    pixel_values [1, 3, H, W] float32 -> tokens [1, N, (1 + n) D], N = (H / 2 patch) (W / 2 patch)
    pixel_values [1, T, 3, H, W]      -> tokens [1, N, D],         N = (T / 2) (H / 2 patch) (W / 2 patch)
    pixel_values [1, 2, 3, H, W]      -> tokens [1, N, (1 + n) D], N = (H / 2 patch) (W / 2 patch)

The models take images of any size, and a graph takes one; see `qwen_encoder`. The tokens stand among the words of the
language model (see `visual`), at their row and column, and those of a video at their time. Qwen3-VL and Qwen3.5 write
the time between the frames instead, and read two of them like an image (see `between_frames`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from types import MethodType
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn
from transformers import Qwen2_5_VLConfig, Qwen2VLConfig, Qwen3_5Config, Qwen3VLConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionTransformerPretrainedModel,
    Qwen2_5_VLModel,
)
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel, Qwen2VLModel
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5Model, Qwen3_5VisionModel
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLModel, Qwen3VLVisionModel

from ...errors import RequestError
from ..decoders.language import LanguageDecoder, Positions
from ..sources.configuration import Layers, Pixels, Vocabulary, Width, built, typed
from ..sources.images import media_of, preprocess_of
from ..sources.weights import without_weights
from .between_frames import between
from .between_frames import timed as written_times
from .joined import encoder_of, joined
from .multimodal import Layout
from .qwen_encoder import QwenEncoder
from .qwen_size import Area, Merge, size_of, step_of
from .visual import VisionLanguage, colours

if TYPE_CHECKING:
    from pathlib import Path

    from ..sources.checkpoint import Checkpoint
    from ..sources.source import GraphSource

_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
# Frames a second, where nothing else was asked for.
_FPS = 2.0
_PLACEHOLDER, _VIDEO = "<|image_pad|>", "<|video_pad|>"
_LAYOUT = Layout(
    language_keys=("language_model", "model"),
    mark=_PLACEHOLDER,
    becomes=_PLACEHOLDER,
    joins="its merger makes one token of several neighbours",
)

# Architecture -> its configuration, vision tower and model.
_KINDS: dict[str, tuple[Any, Any, Any]] = {
    "Qwen2VLForConditionalGeneration": (Qwen2VLConfig, Qwen2VisionTransformerPretrainedModel, Qwen2VLModel),
    "Qwen2_5_VLForConditionalGeneration": (
        Qwen2_5_VLConfig,
        Qwen2_5_VisionTransformerPretrainedModel,
        Qwen2_5_VLModel,
    ),
    "Qwen3VLForConditionalGeneration": (Qwen3VLConfig, Qwen3VLVisionModel, Qwen3VLModel),
    "Qwen3_5ForConditionalGeneration": (Qwen3_5Config, Qwen3_5VisionModel, Qwen3_5Model),
}


class _Vision(BaseModel):
    """What is read of the vision tower; what is not there has the default of transformers."""

    patch_size: Pixels | None = None
    temporal_patch_size: Merge | None = None
    spatial_merge_size: Merge | None = None
    in_channels: Merge | None = None
    embed_dim: Width | None = None
    hidden_size: Width | None = None
    out_hidden_size: Width | None = None
    intermediate_size: Width | None = None
    depth: Layers | None = None
    num_heads: Width | None = None
    num_position_embeddings: Area | None = None
    window_size: Pixels | None = None
    fullatt_block_indexes: list[int] | None = None
    deepstack_visual_indexes: list[int] | None = None


class _Text(BaseModel):
    """What is read of the language model."""

    hidden_size: Width | None = None
    intermediate_size: Width | None = None
    vocab_size: Vocabulary | None = None
    num_hidden_layers: Layers | None = None
    use_sliding_window: bool | None = None
    linear_num_key_heads: Width | None = None
    linear_num_value_heads: Width | None = None
    linear_key_head_dim: Width | None = None
    linear_value_head_dim: Width | None = None
    linear_conv_kernel_dim: Annotated[int, Field(ge=2, le=64)] | None = None


class _Config(_Text):
    """What is read of config.json; folders of the hub hold the language model's values beside the vision tower's."""

    hidden_size: Width | None = None
    vision_config: _Vision | None = None
    text_config: _Text | None = None


def _interleaved(self: Any, freq: Tensor) -> Tensor:
    """As `Qwen3VLTextRotaryEmbedding.recomposition_frequencies`, which writes every third channel in place.

    Args:
        self: the rotary embedding.
        freq: [3, B, L, d / 2], by time, row and column.

    Returns:
        [B, L, d].
    """
    channel = torch.arange(freq.shape[-1])
    row, column = ((channel % 3 == axis) & (channel < 3 * self.mrope_section[axis]) for axis in (1, 2))
    mixed = torch.where(row, freq[1], torch.where(column, freq[2], freq[0]))
    return torch.cat((mixed, mixed), -1)


def _added(hidden_states: Tensor, _: None, further: Tensor) -> Tensor:
    """As `Qwen3VLTextModel._deepstack_process`, for features of the whole sequence, which are zero at words."""
    return hidden_states + further


@dataclass
class QwenSource(VisionLanguage):
    """A folder; see the module docstring.

    Attributes:
        visual: the vision tower, of which encoders of several sizes may share the weights.
        step: the sides of a grid of tokens are multiples of it.
    """

    visual: Any = None
    step: int = 1

    def smaller_encoder(self, grid: tuple[int, ...]) -> GraphSource | None:
        """See `Source`; its windows are whole ones, as those of all sizes are."""
        if self.clip or any(side % self.step for side in grid):
            return None
        return _encoder(self.visual, (grid[0], grid[1]))

    @cached_property
    def decoder(self) -> LanguageDecoder:
        """The language model, without what it does by masks or in place."""
        made = super().decoder
        model: Any = made.model
        if self.further:
            model._deepstack_process = _added
        if self.config.architectures[0].startswith("Qwen3"):
            model.rotary_emb.recomposition_frequencies = MethodType(_interleaved, model.rotary_emb)
        return made

    @cached_property
    def _positions(self) -> Positions:
        # An image or a video, and a word behind it, which stands where the image has moved it.
        vision, (*times, height, width) = self.config.vision_config, self.encoder.grid or ()
        merge, kinds = vision.spatial_merge_size, torch.tensor([[2 if times else 1] * self.tokens + [0]])
        shape = torch.tensor([[*(times or [1]), merge * height, merge * width]])
        told: dict[str, Any] = {"image_grid_thw": shape}
        if times:
            # Of Qwen2.5-VL, which is told how long a patch of several frames lasts; Qwen2-VL counts them.
            assert self.clip is not None, "there are frames"
            seconds = vision.temporal_patch_size / (self.clip.fps or _FPS)
            told = {"video_grid_thw": shape, "second_per_grid_ts": torch.tensor([seconds])}
        # The model without its parts: its configuration is all that this method reads.
        kind = _KINDS[self.config.architectures[0]][2]
        model = kind.__new__(kind)
        nn.Module.__init__(model)
        model.config = self.config
        rows, _ = model.get_rope_index(torch.zeros_like(kinds), kinds, **told)
        return Positions(rows[:, 0, :-1], int(rows[0, 0, -1]))

    def positions(self) -> Positions:
        """Time, row and column of each token."""
        return self._positions


def open_family(checkpoint: Checkpoint) -> QwenSource:
    """Open a folder of one of these models.

    Raises:
        RequestError: the image processor allows no square, or cuts other patches than the encoder; the language model
            has sliding windows; weights that do not belong to config.json.
    """
    path = checkpoint.folder / "config.json"
    typed(_Config, checkpoint.config, path)
    named = checkpoint.config.get("architectures") or ()
    architecture = next((name for name in named if name in _KINDS), next(iter(_KINDS)))
    make, tower, _ = _KINDS[architecture]
    config: Any = built(lambda: make.from_dict(checkpoint.config), path)
    config.architectures = [architecture]
    vision = config.vision_config
    further = _further(vision, path)
    _check_windows(config.get_text_config(), path)
    size = size_of(checkpoint, vision)
    times = _times(checkpoint, config)
    with without_weights():
        visual = built(lambda: tower(vision), path)
    checkpoint.weights.load(visual, "visual")
    token = vision.patch_size * vision.spatial_merge_size
    timed = times > 0 and not architecture.startswith("Qwen3")
    tokens = (*((times,) if timed else ()), size[0] // token, size[1] // token)
    frame = preprocess_of(checkpoint, size, squeezed=True)
    layout = replace(_LAYOUT, windows="its layers see windows of neighbours" if hasattr(vision, "window_size") else "")
    return joined(
        QwenSource,
        checkpoint,
        config,
        _encoder(visual, tokens, times if timed else min(times, 1)),
        _of_videos(checkpoint, layout, vision.temporal_patch_size, timed=timed),
        media_of(checkpoint, frame),
        (_note(checkpoint, architecture, size, math.prod(tokens)),),
        # With further channels, tokens are no longer in the space of words.
        "" if further else "projector_output",
        image_size=size,
        further=further,
        visual=visual,
        step=step_of(vision) // token,
        **colours(frame, _MEAN, _STD),
    )


def _encoder(visual: Any, grid: tuple[int, ...], times: int = 0) -> GraphSource:
    """For pictures or videos of so many tokens, `times` of them behind each other, over the weights of the tower."""
    vision, merge, (*_, rows, columns) = visual.config, visual.spatial_merge_size, grid
    patches = (rows * merge, columns * merge)
    frames = [times * vision.temporal_patch_size] if times else []
    shape = (1, *frames, vision.in_channels, *(side * vision.patch_size for side in patches))
    return encoder_of(QwenEncoder(visual, patches, times), "pixel_values", shape, grid, merged_rows=True)


def _of_videos(checkpoint: Checkpoint, layout: Layout, each: int, *, timed: bool) -> Layout:
    """Where the graphs take a video, the same with it where the image stands; else as it is."""
    if checkpoint.clip is None:
        return layout
    if not timed:
        frame = replace(layout, becomes=f"<|vision_start|>{_VIDEO}<|vision_end|>")
        return between(checkpoint, frame, written_times(checkpoint.clip.fps or _FPS, each), _VIDEO, each)
    windows = "its layers see the frames of a video two by two"
    return replace(layout, media="video", mark=_VIDEO, becomes=_VIDEO, windows=windows)


def _times(checkpoint: Checkpoint, config: Any) -> int:
    """How many tokens of a video stand behind each other in time; 0 where the graphs take images.

    Raises:
        RequestError: the frames are no whole number of them.
    """
    if checkpoint.clip is None:
        return 0
    frames, each = checkpoint.clip.frames, config.vision_config.temporal_patch_size
    if frames % each:
        raise RequestError(
            f"--frames {frames}: a token of this model is of {each} frames",
            where=str(checkpoint.folder / "config.json"),
            fix=f"Give a multiple of {each}: --frames {frames + each - frames % each}.",
        )
    return frames // each


def _note(checkpoint: Checkpoint, architecture: str, size: tuple[int, int], tokens: int) -> str:
    """What becomes of pictures or videos of other sizes."""
    shape, clip = f"{size[0]} x {size[1]} pixels", checkpoint.clip
    if clip is None:
        return f"every image is stretched to {shape}, which are {tokens} tokens"
    told = f", and counted as {clip.fps or _FPS:g} a second" if not architecture.startswith("Qwen2VL") else ""
    return f"of every video {clip.frames} frames are stretched to {shape}{told}, which are {tokens} tokens"


def _further(vision: Any, path: Path) -> int:
    """n, of the encoder."""
    layers = list(getattr(vision, "deepstack_visual_indexes", ()))
    if len({i for i in layers if 0 <= i < vision.depth}) < len(layers):
        raise RequestError(
            f"deepstack_visual_indexes of config.json is {layers}, and the encoder has {vision.depth} layers",
            where=str(path),
            fix="Its files belong to different models: download the folder again.",
        )
    return len(layers)


def _check_windows(text: Any, path: Path) -> None:
    """Refuse attention that a mask of the whole sequence does not describe."""
    if "sliding_attention" in (getattr(text, "layer_types", None) or ()):
        raise RequestError(
            "use_sliding_window of config.json is true, and the language graphs see whole sequences",
            where=str(path),
            fix="Set it to false: released models of this family say so.",
        )
