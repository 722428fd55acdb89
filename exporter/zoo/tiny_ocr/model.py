"""tiny-ocr: tiny-vlm with a stem of three convolutions, under the same generation contract.

A patch of tiny-vlm is projected by itself. A digit is about as large as a patch and lies over the edges of several: the
stem sees 22 x 22 pixels for each token (Xiao et al. 2021, "Early convolutions help transformers see better").
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

from ..tiny_vlm.layers import TinyVLMConfig
from ..tiny_vlm.model import TinyVLM, read
from .text import VOCABULARY

WEIGHTS = Path(__file__).with_name("weights.safetensors")
CONFIG = TinyVLMConfig(vision_layers=3, vocab=len(VOCABULARY))


def stem(config: TinyVLMConfig) -> nn.Sequential:
    """[B, 3, H, W] -> [B, Dv, H / 8, W / 8]: three convolutions that halve the picture, 4 x 4 pixels each."""
    wide = config.vision_dim
    return nn.Sequential(
        nn.Conv2d(3, wide // 4, 4, 2, 1),
        nn.GELU(),
        nn.Conv2d(wide // 4, wide // 2, 4, 2, 1),
        nn.GELU(),
        nn.Conv2d(wide // 2, wide, 4, 2, 1),
    )


class TinyOCR(TinyVLM):
    """The whole model; `forward` is the uncompressed pass it was trained with."""

    def __init__(self, config: TinyVLMConfig = CONFIG) -> None:
        super().__init__(config)
        self.vision.patch_embed = stem(config)


def load(path: Path = WEIGHTS) -> TinyOCR:
    """Read the shipped weights into a model."""
    return read(TinyOCR(), path)
