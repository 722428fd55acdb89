"""LLaVA-1.5 and models like it: a ViT, one or more of its hidden states without CLS, and a projector.

    pixel_values [1, 3, H, W] float32 -> tokens [1, N, D], N = (H / patch) (W / patch), D of the language model

The tokens stand among the words of the language model; see `visual`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import AutoModel, LlavaConfig
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from ...errors import RequestError
from ..sources.configuration import Width, built, typed
from ..sources.images import preprocess_of
from ..sources.own_module import example
from ..sources.source import GraphSource
from ..sources.weights import without_weights
from . import pixtral
from .multimodal import Layout
from .two_parts import Language, Tower, TwoParts
from .visual import VisionLanguage, colours

if TYPE_CHECKING:
    from pathlib import Path

    from ..sources.checkpoint import Checkpoint

_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

# Towers that take only pixels and return a square grid of tokens -> how many CLS tokens precede it.
TOWERS = {"clip_vision_model": 1, "siglip_vision_model": 0}

# Pooling heads: not in the graph, and not in every checkpoint.
UNUSED = ("post_layernorm", "vision_model.post_layernorm", "head", "vision_model.head")


class _Vision(Tower):
    """What is read of the vision tower."""

    model_type: str | None = None
    num_channels: Annotated[int, Field(ge=1, le=16)] | None = None
    projection_dim: Width | None = None


class _Text(Language):
    """What is read of the language model."""

    model_type: str | None = None
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None


class Config(TwoParts):
    """What is read of config.json."""

    vision_config: _Vision | None = None
    text_config: _Text | None = None
    vision_feature_layer: int | list[int] | None = None
    vision_feature_select_strategy: Literal["default", "full"] | None = None
    image_token_index: int | None = None
    image_token_id: int | None = None


class LlavaEncoder(nn.Module):
    """What `LlavaModel.get_image_features` computes, for one image; its submodules have the model's own names.

    Args:
        config: of the model, or of one that selects its features likewise.
        tower: of images.
        projector: reads its features.
    """

    def __init__(self, config: Any, tower: nn.Module, projector: nn.Module) -> None:
        super().__init__()
        layer = config.vision_feature_layer
        self.layers = [layer] if isinstance(layer, int) else list(layer)
        self.prefix = int(config.vision_feature_select_strategy == "default")
        self.vision_tower, self.multi_modal_projector = tower, projector

    @classmethod
    def of(cls, config: LlavaConfig) -> LlavaEncoder:
        """With new parts."""
        tower = AutoModel.from_config(config.vision_config, attn_implementation="sdpa")
        return cls(config, tower, LlavaMultiModalProjector(config))

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[1, 3, H, W] float32 -> [1, N, D]."""
        states = self.vision_tower(pixel_values, output_hidden_states=True, return_dict=True).hidden_states
        features = [states[layer][:, self.prefix :] if self.prefix else states[layer] for layer in self.layers]
        joined = torch.cat(features, dim=-1) if len(features) > 1 else features[0]
        return self.multi_modal_projector(joined)


class StackedEncoder(LlavaEncoder):
    """The same for pictures that are one input: a picture and its tiles, or the frames of a video."""

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[1, T, 3, S, S] float32 -> [1, N, D]."""
        return super().forward(pixel_values[0])


@dataclass
class LlavaSource(VisionLanguage):
    """A LLaVA folder; see the module docstring."""

    @property
    def tokens(self) -> int:
        """N: those of the grid, or all that are known where CLS is kept."""
        return self.encoder.known or super().tokens


def check_tower(checkpoint: Checkpoint, vision: Any) -> None:
    """Raise `RequestError` where the vision tower takes more than pixels."""
    if vision.model_type not in TOWERS:
        raise RequestError(
            f"the vision tower {vision.model_type} is not supported for LLaVA",
            where=str(checkpoint.folder / "config.json"),
            fix=f"Known towers: {', '.join(sorted(TOWERS))}. Or give package.module:callable: the lines on stdout are "
            "one for this tower; save them as mine.py and run tokexport model mine:tower ... .",
            example=example(checkpoint.folder, checkpoint.config),
        )


def check_square(encoder: LlavaEncoder, config: Any, path: Path) -> None:
    """Raise `RequestError` where the features that are selected form no square of tokens."""
    if encoder.prefix != TOWERS[config.vision_config.model_type]:
        raise RequestError(
            f"vision_feature_select_strategy {config.vision_feature_select_strategy} of config.json leaves no square "
            f"of tokens of a {config.vision_config.model_type}",
            where=str(path),
            fix="Copy or download this file again.",
        )


def open_family(checkpoint: Checkpoint) -> VisionLanguage:
    """Open the image encoder of a LlavaForConditionalGeneration folder.

    Raises:
        RequestError: a vision tower that takes more than pixels, or weights that do not belong to config.json.
    """
    path = checkpoint.folder / "config.json"
    typed(Config, checkpoint.config, path)
    config = built(lambda: LlavaConfig.from_dict(checkpoint.config), path)
    vision: Any = config.vision_config
    if vision.model_type == "pixtral":
        return pixtral.open_family(checkpoint)
    check_tower(checkpoint, vision)
    with without_weights():
        module = built(lambda: LlavaEncoder.of(config), path)
    checkpoint.weights.load(module.vision_tower, "vision_tower", optional=UNUSED)
    checkpoint.weights.load(module.multi_modal_projector, "multi_modal_projector")
    preprocess = preprocess_of(checkpoint, (vision.image_size, vision.image_size))
    side = vision.image_size // vision.patch_size
    # Strategy "full" keeps CLS as the first token, one like any other to the language model: the tokens form no grid.
    whole = module.prefix == TOWERS[vision.model_type]
    source = LlavaSource(
        kind="checkpoint",
        name=checkpoint.name,
        modality="image",
        encoder=GraphSource(
            role="encoder",
            module=module.eval(),
            inputs={"pixel_values": torch.zeros(1, vision.num_channels, vision.image_size, vision.image_size)},
            outputs=("tokens",),
            grid=(side, side) if whole else None,
            known=0 if whole else side**2 + TOWERS[vision.model_type] - module.prefix,
        ),
        files=checkpoint.weights.files,
        auto_seam={name: name for name in ("encoder_output", "projector_input", "projector_output")},
        preprocess=preprocess,
        config=config,
        checkpoint=checkpoint,
        layout=Layout(),
        placeholder=config.image_token_id,
        **colours(preprocess, _CLIP_MEAN, _CLIP_STD),
    )
    return source.opened("projector_output")
