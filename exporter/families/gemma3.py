"""Gemma 3 with pictures: a SigLIP tower, an average pool and one matrix.

    pixel_values [1, 3, S, S] float32 -> tokens [1, N, D], N = mm_tokens_per_image

One picture, without pan and scan. Its tokens see each other, whatever their order.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field
from transformers import Gemma3Config

from ...errors import RequestError
from ..sources.configuration import built, typed
from .layout import Layout, shell
from .square import Projected, square
from .two_parts import TwoParts
from .visual import VisionLanguage

if TYPE_CHECKING:
    from ..sources.checkpoint import Checkpoint

_LAYOUT = Layout(
    mark="<start_of_image>",
    becomes="\n\n<start_of_image><image_soft_token><end_of_image>\n\n",
    image_sees="image",
    tiles=True,
    joins="its average pool makes one token of several neighbours",
)


class _Config(TwoParts):
    """What is read of config.json."""

    mm_tokens_per_image: Annotated[int, Field(ge=1, le=1 << 14)] | None = None


def open_family(checkpoint: Checkpoint) -> VisionLanguage:
    """Open a Gemma3ForConditionalGeneration folder.

    Raises:
        RequestError: patches that do not pool to that many tokens; weights or a tokenizer that do not belong to
            config.json.
    """
    path = checkpoint.folder / "config.json"
    typed(_Config, checkpoint.config, path)
    config = built(lambda: Gemma3Config.from_dict(checkpoint.config), path)
    vision: Any = config.vision_config
    patches, side = vision.image_size // vision.patch_size, math.isqrt(config.mm_tokens_per_image)
    if side**2 != config.mm_tokens_per_image or patches % side:
        raise RequestError(
            f"{patches} x {patches} patches do not pool to mm_tokens_per_image {config.mm_tokens_per_image}",
            where=str(path),
            fix="Copy or download this file again.",
        )
    encoder = Projected(shell(checkpoint, config, "sdpa").model)
    checkpoint.weights.load(encoder.vision_tower, "vision_tower", optional=("head", "vision_model.head"))
    checkpoint.weights.load(encoder.multi_modal_projector, "multi_modal_projector")
    return square(checkpoint, config, encoder, vision.image_size, side, _LAYOUT)
