"""Idefics3 and SmolVLM, also of the second version: a SigLIP tower, a pixel shuffle and one matrix.

    pixel_values [1, 3, S, S] float32 -> tokens [1, N, D], N = (S / patch / scale_factor)^2

One picture of the tower's own size: what these models call the global image, without the tiles they cut beside it.
SmolVLM2 reads the frames of a video like that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import AutoConfig

from ..decoders.attention import UNMASKED
from ..sources.configuration import built, typed
from .layout import Layout, shell
from .square import square
from .two_parts import TwoParts
from .visual import VisionLanguage

if TYPE_CHECKING:
    from ..sources.checkpoint import Checkpoint

_LAYOUT = Layout(
    language="model.text_model",
    language_keys=("text_model",),
    head_keys=("lm_head",),
    becomes="<fake_token_around_image><global-img><image><fake_token_around_image>",
    tiles=True,
    joins="its pixel shuffle makes one token of several neighbours",
)


class _Config(TwoParts):
    """What is read of config.json."""

    scale_factor: Annotated[int, Field(ge=1, le=16)] | None = None


class Embeddings(nn.Module):
    """Patches and their positions, of a picture that fills its square; `own` looks for places that padding leaves out.

    The positions are what `own` finds for such a picture.
    """

    positions: Tensor

    def __init__(self, own: Any) -> None:
        super().__init__()
        self.patch_embedding, self.position_embedding = own.patch_embedding, own.position_embedding
        self.register_buffer("positions", _positions(own), persistent=False)

    def forward(self, pixel_values: Tensor, **_: Any) -> Tensor:
        """[1, 3, S, S] float32 -> [1, (S / patch)^2, C]."""
        return self.patch_embedding(pixel_values).flatten(2).transpose(1, 2) + self.position_embedding(self.positions)


def _positions(own: Any) -> Tensor:
    """Row of the table for each patch, [1, (S / patch)^2]."""
    found: list[Tensor] = []
    side = own.image_size // own.patch_size
    hook = own.position_embedding.register_forward_pre_hook(lambda _, args: found.append(args[0]))
    with torch.no_grad():
        own(torch.zeros(1, 3, own.image_size, own.image_size), torch.ones(1, side, side, dtype=torch.bool))
    hook.remove()
    return found[0]


class Idefics3Encoder(nn.Module):
    """The tower and the connector of a model of transformers."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.vision_model, self.connector = model.vision_model, model.connector

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[1, 3, S, S] float32 -> [1, N, D]."""
        return self.connector(self.vision_model(pixel_values).last_hidden_state)


def open_family(checkpoint: Checkpoint) -> VisionLanguage:
    """Open an Idefics3ForConditionalGeneration or SmolVLMForConditionalGeneration folder.

    Raises:
        RequestError: weights or a tokenizer that do not belong to config.json.
    """
    path = checkpoint.folder / "config.json"
    typed(_Config, checkpoint.config, path)
    config: Any = built(lambda: AutoConfig.for_model(**checkpoint.config), path)
    model: Any = shell(checkpoint, config, UNMASKED).model
    encoder = Idefics3Encoder(model)
    checkpoint.weights.load(encoder.vision_model, "vision_model")
    checkpoint.weights.load(encoder.connector, "connector")
    encoder.vision_model.embeddings = Embeddings(encoder.vision_model.embeddings)
    vision = config.vision_config
    side = vision.image_size // vision.patch_size // config.scale_factor
    layout = _LAYOUT
    if checkpoint.clip is not None and config.model_type == "smolvlm":
        # Of its processor, which other versions of transformers have elsewhere.
        from .smolvlm_video import asked

        layout = asked(checkpoint, layout, checkpoint.clip)
    return square(checkpoint, config, encoder, vision.image_size, side, layout)
