"""PaliGemma, also of the second version: a SigLIP tower, one matrix, and a Gemma that sees a whole prompt at once.

    pixel_values [1, 3, S, S] float32 -> tokens [1, N, D], N = (S / patch)^2

The image comes first, and there is no chat template: the processor puts the word that begins a text behind the image,
and a line's end behind the question. transformers counts positions from 1, here they count from 0: a rotary embedding
reads nothing but differences.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import PaliGemmaConfig

from ..decoders.attention import UNMASKED
from ..sources.configuration import Width, built, typed
from ..sources.weights import without_weights
from .layout import Layout, shell
from .square import Projected, square
from .two_parts import Language, TwoParts
from .visual import VisionLanguage

if TYPE_CHECKING:
    from ..sources.checkpoint import Checkpoint

_LAYOUT = Layout(
    asks=("<image>{bos}", "\n"), image_sees="prompt", alone="this model sees a prompt whole, with one picture in front"
)


class _Text(Language):
    """What is read of the language model."""

    final_logit_softcapping: Annotated[float, Field(gt=0)] | None = None


class _Config(TwoParts):
    """What is read of config.json."""

    text_config: _Text | None = None
    projection_dim: Width | None = None


class Capped(nn.Linear):
    """An output layer whose logits lie between -cap and cap."""

    cap: float

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, D] -> [B, V]."""
        return torch.tanh(super().forward(hidden) / self.cap) * self.cap


@dataclass
class PaliGemmaSource(VisionLanguage):
    """A folder; see the module docstring."""

    def _loaded(self) -> tuple[nn.Module, nn.Linear]:
        """See `VisionLanguage`; the second version caps its logits."""
        model, head = super()._loaded()
        cap = getattr(self.language_config, "final_logit_softcapping", None)
        if cap is None:
            return model, head
        with without_weights():
            capped = Capped(head.in_features, head.out_features, bias=False)
        capped.weight, capped.cap = head.weight, cap
        return model, capped


def open_family(checkpoint: Checkpoint) -> VisionLanguage:
    """Open a PaliGemmaForConditionalGeneration folder.

    Raises:
        RequestError: weights or a tokenizer that do not belong to config.json.
    """
    path = checkpoint.folder / "config.json"
    typed(_Config, checkpoint.config, path)
    config = built(lambda: PaliGemmaConfig.from_dict(checkpoint.config), path)
    # It changes no mask that is given; but attention that is not causal is cross-attention to `decoders.attention`.
    config.text_config.use_bidirectional_attention = False
    vision: Any = config.vision_config
    # Gemma 2 has no SDPA of its own in transformers.
    encoder = Projected(shell(checkpoint, config, UNMASKED).model)
    checkpoint.weights.load(encoder.vision_tower, "vision_tower", optional=("head", "vision_model.head"))
    checkpoint.weights.load(encoder.multi_modal_projector, "multi_modal_projector")
    side = vision.image_size // vision.patch_size
    source = square(checkpoint, config, encoder, vision.image_size, side, _LAYOUT, PaliGemmaSource)
    # The matrix reads every token alone, so tokens may also go in front of it.
    source.auto_seam = {}
    return source
