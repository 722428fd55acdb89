"""Vision-language models of transformers: a `Multimodal` whose encoder reads the pixels of a picture or a video."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..sources.synthetic import clip, image
from .multimodal import Multimodal

if TYPE_CHECKING:
    from ...runtimes.bundle.media_records import PreprocessRecord

Channels = tuple[float, float, float]

# Of the pixels, where the folder says nothing.
HALVES = (0.5, 0.5, 0.5)


def colours(preprocess: PreprocessRecord | None, mean: Channels = HALVES, std: Channels = HALVES) -> dict[str, Any]:
    """`mean` and `std` of the pixels, by channel: the folder's, or where it says nothing these."""
    return {"mean": preprocess.mean, "std": preprocess.std} if preprocess else {"mean": mean, "std": std}


@dataclass
class VisionLanguage(Multimodal):
    """A checkpoint folder: an encoder of images or videos, and a language model that reads its tokens among words.

    Attributes:
        mean: of the pixels of `real_inputs`, by channel.
        std: likewise.
    """

    mean: Channels = HALVES
    std: Channels = HALVES

    def real_inputs(self, n: int) -> list[dict[str, np.ndarray]]:
        """`n` drawn pictures or videos, normalised as the checkpoint's photographs are."""
        _, *frames, _, height, width = self.encoder.inputs["pixel_values"].shape
        mean, std = (np.asarray(values, np.float32)[:, None, None] for values in (self.mean, self.std))
        drawn = [clip(i, frames[0], height, width) if frames else image(i, height, width) for i in range(n)]
        return [{"pixel_values": ((one - mean) / std)[None]} for one in drawn]
