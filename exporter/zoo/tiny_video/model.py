"""tiny-video: the layers of tiny-vlm over the frames of a clip, under the same generation contract.

Every frame goes through the vision transformer by itself, with its time embedding added to all of its patches. The
patch tokens of all frames are concatenated, frame by frame: N = 8 x 36 tokens. Embed, prefill and decode are those of
tiny-vlm. The position of a token in the decoder is frame * 36 + place, so it encodes time and place.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ..tiny_vlm.layers import TinyVLMConfig, VisionTransformer
from ..tiny_vlm.model import TinyVLM, read
from .clips import FRAMES, GRID, SIZE
from .text import VOCABULARY

WEIGHTS = Path(__file__).with_name("weights.safetensors")
CONFIG = TinyVLMConfig(image=SIZE, frames=FRAMES, grid=(GRID, GRID), vocab=len(VOCABULARY))


class FrameTransformer(VisionTransformer):
    """The vision transformer of tiny-vlm over each frame; CLS is dropped from its output."""

    def __init__(self, config: TinyVLMConfig) -> None:
        super().__init__(config)
        self.frames = config.frames
        self.times = nn.Parameter(torch.randn(config.frames, 1, config.vision_dim) * 0.02)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[B, T, 3, 48, 48] float32, normalised with mean .5 and std .5 -> [B, T * 36, Dv]."""
        x = self.embed(pixel_values.flatten(0, 1))
        x = (x.unflatten(0, (-1, self.frames)) + self.times).flatten(0, 1)
        for layer in self.layers:
            x = layer(x)
        return x[:, 1:].unflatten(0, (-1, self.frames)).flatten(1, 2)


class TinyVideo(TinyVLM):
    """The whole model; `forward` is the uncompressed pass it was trained with."""

    def __init__(self, config: TinyVLMConfig = CONFIG) -> None:
        super().__init__(config)
        self.vision = FrameTransformer(config)

    def encode(self, pixel_values: Tensor) -> Tensor:
        """[B, T, 3, 48, 48] float32 -> visual tokens [B, N, D]."""
        return self.projector(self.vision(pixel_values))


def load(path: Path = WEIGHTS) -> TinyVideo:
    """Read the shipped weights into a model."""
    return read(TinyVideo(), path)


class Encoder(nn.Module):
    """pixel_values [B, T, 3, 48, 48] float32 -> tokens [B, N, D]."""

    def __init__(self, model: TinyVideo) -> None:
        super().__init__()
        self.vision, self.projector = model.vision, model.projector

    def forward(self, pixel_values: Tensor) -> Tensor:
        """See the class."""
        return self.projector(self.vision(pixel_values))
