"""Vision-language models of transformers: a `Multimodal` whose encoder reads pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..sources.synthetic import image
from .multimodal import Layout as Layout
from .multimodal import Multimodal
from .multimodal import prefix_of as prefix_of
from .multimodal import shell as shell

# Of the pixels, where the folder says nothing.
HALVES = (0.5, 0.5, 0.5)


@dataclass
class VisionLanguage(Multimodal):
    """A checkpoint folder: an encoder of images, and a language model that reads its tokens among words.

    Attributes:
        mean: of the pixels of `real_inputs`, by channel.
        std: likewise.
    """

    mean: tuple[float, ...] = HALVES
    std: tuple[float, ...] = HALVES

    def real_inputs(self, n: int) -> list[dict[str, np.ndarray]]:
        """`n` drawn pictures, normalised as the checkpoint's photographs are."""
        _, _, height, width = self.encoder.inputs["pixel_values"].shape
        mean, std = (np.asarray(values, np.float32)[:, None, None] for values in (self.mean, self.std))
        return [{"pixel_values": ((image(i, height, width) - mean) / std)[None]} for i in range(n)]
