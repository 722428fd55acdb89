"""The image towers of transformers that `tower` reads, and what it takes to read each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .siglip2 import Patches


def _as_it_is(model: Any, size: tuple[int, int]) -> None:
    """Nothing depends on the size of the pictures."""


@dataclass(frozen=True)
class Kind:
    """How an architecture is read.

    Attributes:
        model: the class of transformers that reads its image side.
        read: makes of that model, pixel_values and options of its own the last hidden states [1, prefix + N, D] and
            the result.
        gives: what the result is.
        cls: CLS tokens, in front of the registers that the configuration may name.
        fit: makes the model one for pictures of a (height, width) alone.
        any_size: whether it takes pictures of other sizes than that of its configuration.
        stretches: whether it does so where it is asked to stretch its learned positions.
        squeezed: whether pictures are stretched to that size, whatever the folder's processor does.
        rotary: path of the layers that read rotary tables; empty where they read none.
    """

    model: str
    read: Callable[..., tuple[Tensor, Tensor]]
    gives: Literal["embedding", "logits"] = "embedding"
    cls: int = 1
    fit: Callable[[Any, tuple[int, int]], None] = _as_it_is
    any_size: bool = False
    stretches: bool = False
    squeezed: bool = False
    rotary: str = ""


def _pooled(model: Any, pixel_values: Tensor, **options: bool) -> tuple[Tensor, Tensor]:
    """As the model pools them; without a pooler, CLS."""
    found = model(pixel_values, **options)
    states = found.last_hidden_state
    return states, states[:, 0] if found.pooler_output is None else found.pooler_output


def _projected(model: Any, pixel_values: Tensor, **options: bool) -> tuple[Tensor, Tensor]:
    """Into the space that the model shares with texts."""
    found = model(pixel_values, **options)
    return found.last_hidden_state, found.image_embeds


def _of_cls(model: Any, pixel_values: Tensor, **options: bool) -> tuple[Tensor, Tensor]:
    states = model.base_model(pixel_values, **options).last_hidden_state
    return states, model.classifier(states[:, 0])


def _of_mean(model: Any, pixel_values: Tensor, *, cls: int, **options: bool) -> tuple[Tensor, Tensor]:
    """Classes by the mean of the patches."""
    states = model.vision_model(pixel_values, **options).last_hidden_state
    return states, model.classifier(states[:, cls:].mean(dim=1))


def _of_cls_and_mean(model: Any, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
    """Classes by CLS beside the mean of the patches, without registers."""
    states = model.base_model(pixel_values).last_hidden_state
    patches = states[:, 1 + getattr(model.config, "num_register_tokens", 0) :]
    return states, model.classifier(torch.cat([states[:, 0], patches.mean(dim=1)], dim=1))


def _stretched(model: Any, size: tuple[int, int]) -> None:
    """Positions as DINOv2 stretches them to a size, which is then computed once and not for every picture."""
    embeddings = model.base_model.embeddings
    # A model that was stretched before is stretched from what it was trained with.
    embeddings.trained = getattr(embeddings, "trained", embeddings.position_embeddings.detach())
    embeddings.position_embeddings = nn.Parameter(embeddings.trained, requires_grad=False)
    height, width = (side // embeddings.patch_size for side in size)
    if height != width:
        return
    places = embeddings.position_embeddings.new_zeros(1, 1 + height * width, 1)
    places = places.expand(-1, -1, embeddings.position_embeddings.shape[-1])
    positions = embeddings.interpolate_pos_encoding(places, *size)
    embeddings.position_embeddings = nn.Parameter(positions, requires_grad=False)


def _squared(model: Any, size: tuple[int, int]) -> None:
    model.embeddings = Patches(model.embeddings)


def _unmasked(model: Any, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
    """A square of as many patches as there are positions: none is padding, and no position is stretched."""
    found = model(pixel_values, pixel_attention_mask=None, spatial_shapes=None)
    return found.last_hidden_state, found.pooler_output


_SIGLIP2 = Kind("Siglip2VisionModel", _unmasked, cls=0, fit=_squared, squeezed=True)

# By the name in config.json.
KINDS = {
    "ViTModel": Kind("ViTModel", _pooled, stretches=True),
    "ViTForImageClassification": Kind("ViTForImageClassification", _of_cls, "logits", stretches=True),
    "CLIPModel": Kind("CLIPVisionModelWithProjection", _projected, stretches=True),
    "CLIPVisionModelWithProjection": Kind("CLIPVisionModelWithProjection", _projected, stretches=True),
    "CLIPVisionModel": Kind("CLIPVisionModel", _pooled, stretches=True),
    "SiglipModel": Kind("SiglipVisionModel", _pooled, cls=0, stretches=True),
    "SiglipVisionModel": Kind("SiglipVisionModel", _pooled, cls=0, stretches=True),
    "CLIPForImageClassification": Kind(
        "CLIPForImageClassification", partial(_of_mean, cls=1), "logits", stretches=True
    ),
    "SiglipForImageClassification": Kind(
        "SiglipForImageClassification", partial(_of_mean, cls=0), "logits", cls=0, stretches=True
    ),
    "Siglip2Model": _SIGLIP2,
    "Siglip2VisionModel": _SIGLIP2,
    **{
        name: Kind(name, _pooled, fit=_stretched, any_size=True) for name in ("Dinov2Model", "Dinov2WithRegistersModel")
    },
    **{
        name: Kind(name, _of_cls_and_mean, "logits", fit=_stretched, any_size=True)
        for name in ("Dinov2ForImageClassification", "Dinov2WithRegistersForImageClassification")
    },
    "DINOv3ViTModel": Kind("DINOv3ViTModel", _pooled, any_size=True, rotary="model.layer"),
}
