"""LLaVA-1.5 and its like: a ViT, one or more of its hidden states without CLS, and a projector.

    pixel_values [1, 3, H, W] float32 -> tokens [1, N, D], N = (H / patch) (W / patch), D of the language model

The language model of the folder is never read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModel, LlavaConfig
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from ...errors import RequestError
from ..source import GraphSource, Source
from ..sources.images import preprocess_of
from ..sources.synthetic import image
from ..sources.weights import without_weights

if TYPE_CHECKING:
    from ..sources.checkpoint import Checkpoint

_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

# Towers that give one CLS token or none before a square grid, and take nothing but pixels.
_TOWERS = {"clip_vision_model": 1, "siglip_vision_model": 0}

# Pooling heads: not in the graph, and not in every checkpoint.
_UNUSED = ("post_layernorm", "vision_model.post_layernorm", "head", "vision_model.head")


class LlavaEncoder(nn.Module):
    """What `LlavaModel.get_image_features` computes, for one image; the names of its parts are those of the model."""

    def __init__(self, config: LlavaConfig) -> None:
        super().__init__()
        layer = config.vision_feature_layer
        self.layers = [layer] if isinstance(layer, int) else list(layer)
        self.prefix = int(config.vision_feature_select_strategy == "default")
        self.vision_tower = AutoModel.from_config(config.vision_config, attn_implementation="sdpa")
        self.multi_modal_projector = LlavaMultiModalProjector(config)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[1, 3, H, W] float32 -> [1, N, D]."""
        states = self.vision_tower(pixel_values, output_hidden_states=True, return_dict=True).hidden_states
        features = [states[layer][:, self.prefix :] if self.prefix else states[layer] for layer in self.layers]
        joined = torch.cat(features, dim=-1) if len(features) > 1 else features[0]
        return self.multi_modal_projector(joined)


@dataclass
class LlavaSource(Source):
    """A LLaVA folder; see the module docstring."""

    mean: tuple[float, ...] = field(default=_CLIP_MEAN)
    std: tuple[float, ...] = field(default=_CLIP_STD)

    def real_inputs(self, n: int) -> list[dict[str, np.ndarray]]:
        """`n` drawn pictures, normalised as the checkpoint's photographs are."""
        _, _, height, width = self.encoder.inputs["pixel_values"].shape
        mean, std = (np.asarray(values, np.float32)[:, None, None] for values in (self.mean, self.std))
        return [{"pixel_values": ((image(i, height, width) - mean) / std)[None]} for i in range(n)]


def open_family(checkpoint: Checkpoint) -> LlavaSource:
    """Open the image encoder of a LlavaForConditionalGeneration folder.

    Raises:
        RequestError: a vision tower that takes more than pixels, or weights that do not belong to config.json.
    """
    config = LlavaConfig.from_dict(checkpoint.config)
    vision: Any = config.vision_config
    if vision.model_type not in _TOWERS:
        raise RequestError(
            f"the vision tower {vision.model_type} is not supported for LLaVA",
            where=str(checkpoint.folder / "config.json"),
            fix=f"Known towers: {', '.join(sorted(_TOWERS))}.",
        )
    with without_weights():
        module = LlavaEncoder(config)
    checkpoint.weights.load(module.vision_tower, "vision_tower", optional=_UNUSED)
    checkpoint.weights.load(module.multi_modal_projector, "multi_modal_projector")
    preprocess = preprocess_of(checkpoint, (vision.image_size, vision.image_size))
    side = vision.image_size // vision.patch_size
    # Strategy "full" keeps CLS as the first of the tokens: then they are no grid.
    whole = module.prefix == _TOWERS[vision.model_type]
    extra: dict[str, Any] = {"mean": preprocess.mean, "std": preprocess.std} if preprocess else {}
    return LlavaSource(
        kind="checkpoint",
        name=checkpoint.name,
        encoder=GraphSource(
            role="encoder",
            module=module.eval(),
            inputs={"pixel_values": torch.zeros(1, vision.num_channels, vision.image_size, vision.image_size)},
            outputs=("tokens",),
            grid=(side, side) if whole else None,
        ),
        files=checkpoint.weights.files,
        auto_seam={name: name for name in ("encoder_output", "projector_input", "projector_output")},
        preprocess=preprocess,
        **extra,
    )
