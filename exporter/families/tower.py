"""Image towers alone: what they make of a picture is the answer, and no language model reads their tokens.

    pixel_values [1, C, H, W] float32 -> tokens [1, N, D], and embedding [1, E] or logits [1, classes]

The tokens are the patches of the last hidden states, without CLS and registers. Behind the last layer nothing is left
to save, so the default seam lies inside the encoder, behind a third of its layers: there tokens are features already,
which methods can compare, and with 3 of 4 of them removed about half of the whole work is. Published methods that prune
such models begin about there too: EViT in the fourth layer of twelve, DynamicViT behind the third.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
import transformers
from pydantic import BaseModel, Field
from torch import Tensor, nn

from ...errors import RequestError
from ...runtimes.bundle.manifest import ProcessorRecord
from ..sources.configuration import Layers, Pixels, Width, built, typed
from ..sources.images import preprocess_of
from ..sources.pretrained import pretrained
from ..sources.source import GraphSource, Source
from ..sources.synthetic import image
from .visual import HALVES

if TYPE_CHECKING:
    from ..sources.checkpoint import Checkpoint

_LABELS = "processor/labels.json"
_Sides = Pixels | tuple[Pixels, Pixels]


class _Tower(BaseModel):
    """What is read of the configuration of the tower."""

    image_size: _Sides | None = None
    patch_size: _Sides | None = None
    num_channels: Annotated[int, Field(ge=1, le=16)] | None = None
    hidden_size: Width | None = None
    intermediate_size: Width | None = None
    num_hidden_layers: Layers | None = None
    num_attention_heads: Width | None = None


class _Config(_Tower):
    """What is read of config.json: of a tower alone, or of one beside a text side."""

    architectures: list[str] | None = None
    vision_config: _Tower | None = None
    id2label: dict[int, str] | None = None


@dataclass(frozen=True)
class Kind:
    """How an architecture is read.

    Attributes:
        model: the class of transformers that reads its image side.
        read: makes of that model and pixel_values the last hidden states [1, prefix + N, D] and the result.
        gives: what the result is.
        cls: CLS tokens, in front of the registers that the configuration may name.
    """

    model: str
    read: Callable[[Any, Tensor], tuple[Tensor, Tensor]]
    gives: Literal["embedding", "logits"] = "embedding"
    cls: int = 1


def _pooled(model: Any, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
    """As the model pools them; without a pooler, CLS."""
    found = model(pixel_values)
    states = found.last_hidden_state
    return states, states[:, 0] if found.pooler_output is None else found.pooler_output


def _of_cls(model: Any, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
    states = model.base_model(pixel_values).last_hidden_state
    return states, model.classifier(states[:, 0])


KINDS = {
    "ViTModel": Kind("ViTModel", _pooled),
    "ViTForImageClassification": Kind("ViTForImageClassification", _of_cls, "logits"),
}


class TowerEncoder(nn.Module):
    """A model of transformers as a function of pixels to tokens and its result.

    Args:
        model: with its weights.
        kind: how it is read.
        prefix: tokens in front of the patches.
    """

    def __init__(self, model: nn.Module, kind: Kind, prefix: int) -> None:
        super().__init__()
        self.model, self.read, self.prefix = model, kind.read, prefix

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """[1, C, H, W] float32 -> [1, N, D], and [1, E] or [1, classes]."""
        states, result = self.read(self.model, pixel_values)
        return states[:, self.prefix :], result


@dataclass
class TowerSource(Source):
    """A folder of an image tower; see the module docstring.

    Attributes:
        mean: of the pixels of `real_inputs`, by channel.
        std: likewise.
    """

    mean: tuple[float, ...] = field(kw_only=True)
    std: tuple[float, ...] = field(kw_only=True)

    def real_inputs(self, n: int) -> list[dict[str, np.ndarray]]:
        """`n` drawn pictures, normalised as the checkpoint's photographs are."""
        _, _, height, width = self.encoder.inputs["pixel_values"].shape
        mean, std = (np.asarray(values, np.float32)[:, None, None] for values in (self.mean, self.std))
        return [{"pixel_values": ((image(i, height, width) - mean) / std)[None]} for i in range(n)]


def open_family(checkpoint: Checkpoint) -> TowerSource:
    """Open a folder of one of `KINDS`.

    Raises:
        RequestError: weights or labels that do not belong to config.json; pictures that are not of three channels.
    """
    path = checkpoint.folder / "config.json"
    said: _Config = typed(_Config, checkpoint.config, path)
    architecture = next(name for name in said.architectures or () if name in KINDS)
    kind = KINDS[architecture]
    whole: Any = built(lambda: getattr(transformers, architecture).config_class.from_dict(checkpoint.config), path)
    config = getattr(whole, "vision_config", whole)
    if config.num_channels != 3:
        raise RequestError(
            f"num_channels is {config.num_channels}, and pictures have 3",
            where=str(path),
            fix="Give package.module:callable, which returns the model and an example of its input.",
        )
    model, notes = _read(checkpoint, kind, config)
    size, patch = _pair(config.image_size), _pair(config.patch_size)
    preprocess = preprocess_of(checkpoint, size)
    prefix = kind.cls + getattr(config, "num_register_tokens", 0)
    labels = _labels(said, config, path) if kind.gives == "logits" else None
    seam = f"encoder_layer:{math.ceil(config.num_hidden_layers / 3) - 1}"
    return TowerSource(
        kind="checkpoint",
        name=checkpoint.name,
        modality="image",
        encoder=GraphSource(
            role="encoder",
            module=TowerEncoder(model, kind, prefix).eval(),
            inputs={"pixel_values": torch.zeros(1, 3, *size)},
            outputs=("tokens", kind.gives),
            grid=(size[0] // patch[0], size[1] // patch[1]),
        ),
        files=checkpoint.weights.files,
        auto_seam=dict.fromkeys(("encoder_output", "projector_input", "projector_output"), seam),
        preprocess=preprocess,
        processor=ProcessorRecord(labels=_LABELS if labels else None),
        processor_files={_LABELS: json.dumps(labels, ensure_ascii=False).encode()} if labels else {},
        answer=kind.gives,
        notes=notes,
        mean=preprocess.mean if preprocess else HALVES,
        std=preprocess.std if preprocess else HALVES,
    )


def _read(checkpoint: Checkpoint, kind: Kind, config: Any) -> tuple[Any, tuple[str, ...]]:
    """The model with its weights, and what is to be said of it."""
    weights, options, notes = checkpoint.weights, {}, []
    if kind.model == "ViTModel" and not (weights.has("pooler") or weights.has("vit.pooler")):
        options["add_pooling_layer"] = False
        notes.append("this folder has no pooler: the embedding is CLS behind the last norm")
    return pretrained(checkpoint, getattr(transformers, kind.model), config, **options), tuple(notes)


def _labels(said: _Config, config: Any, path: Any) -> list[str] | None:
    """The names of the classes in their order; None where config.json names none."""
    if said.id2label is None:
        return None
    if sorted(said.id2label) != list(range(config.num_labels)):
        raise RequestError(
            f"id2label names {len(said.id2label)} classes, and not those from 0 to {config.num_labels - 1}",
            where=str(path),
            fix="Copy or download this file again.",
        )
    return [said.id2label[i] for i in range(config.num_labels)]


def _pair(size: int | tuple[int, int] | list[int]) -> tuple[int, int]:
    """(height, width)."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])
