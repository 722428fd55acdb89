"""Image towers alone: what they make of a picture is the answer, and no language model reads their tokens.

    pixel_values [1, C, H, W] float32 -> tokens [1, N, D], and embedding [1, E] or logits [1, classes]

The tokens are the patches of the last hidden states, without CLS and registers. Behind the last layer nothing is left
to save, so the default seam lies inside the encoder, behind a third of its layers: there tokens are features already,
which methods can compare, and with 3 of 4 of them removed about half of the whole work is. Published methods that prune
such models begin about there too: EViT in the fourth layer of twelve, DynamicViT behind the third.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
import transformers
from pydantic import BaseModel, Field
from torch import Tensor, nn

from ...errors import RequestError
from ...runtimes.bundle.manifest import ProcessorRecord
from ...runtimes.bundle.media_records import LONGEST_SIDE
from ..decoders.attention import UNMASKED
from ..sources.configuration import Layers, Pixels, Width, built, typed
from ..sources.images import picture_size, preprocess_of
from ..sources.pretrained import pretrained
from ..sources.source import GraphSource, Source
from ..sources.synthetic import image
from .rotary_rows import rows_at
from .tower_kinds import KINDS, Kind
from .visual import colours

if TYPE_CHECKING:
    from ..sources.checkpoint import Checkpoint

_LABELS = "processor/labels.json"
_NO_TEXT = (
    "only its image side is exported: the texts that its embeddings are compared with are embedded by the text side, "
    "in transformers or by an export of your own"
)
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
    num_patches: Annotated[int, Field(ge=1, le=1 << 20)] | None = None
    num_register_tokens: Annotated[int, Field(ge=0, le=1024)] | None = None


class _Config(_Tower):
    """What is read of config.json: of a tower alone, or of one beside a text side."""

    architectures: list[str] | None = None
    vision_config: _Tower | None = None
    text_config: dict[str, Any] | None = None
    id2label: dict[int, str] | None = None


class TowerEncoder(nn.Module):
    """A model of transformers as a function of pixels to tokens and its result.

    Args:
        model: with its weights.
        kind: how it is read.
        prefix: tokens in front of the patches.
        stretched: whether learned positions are stretched to the picture, by the model's own code.
    """

    def __init__(self, model: nn.Module, kind: Kind, prefix: int, *, stretched: bool = False) -> None:
        super().__init__()
        self.model, self.kind, self.prefix = model, kind, prefix
        self.options = {"interpolate_pos_encoding": True} if stretched else {}

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """[1, C, H, W] float32 -> [1, N, D], and [1, E] or [1, classes]."""
        states, result = self.kind.read(self.model, pixel_values, **self.options)
        return states[:, self.prefix :], result

    @contextmanager
    def at(self, kept: Tensor) -> Iterator[None]:
        """Layers with rotary tables take as many patches as `kept` [1, K] int64 for those at these positions."""
        layers: Any = self.model.get_submodule(self.kind.rotary) if self.kind.rotary else ()
        with rows_at(layers, kept, self.prefix):
            yield


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

    def smaller_encoder(self, grid: tuple[int, ...]) -> GraphSource | None:
        """See `Source`; learned positions are stretched as the model's own code does it, where it does."""
        whole = self.encoder.module
        assert isinstance(whole, TowerEncoder) and self.encoder.grid is not None, "as `open_family` made it"
        kind = whole.kind
        if not (kind.any_size or kind.stretches):
            return None
        sides = self.encoder.inputs["pixel_values"].shape[2:]
        height, width = (side // own * count for side, own, count in zip(sides, self.encoder.grid, grid))
        model: Any = copy.deepcopy(whole.model, {id(weight): weight for weight in whole.model.parameters()})
        kind.fit(model, (height, width))
        return replace(
            self.encoder,
            module=TowerEncoder(model, kind, whole.prefix, stretched=kind.stretches).eval(),
            inputs={"pixel_values": torch.zeros(1, 3, height, width)},
            grid=grid,
        )


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
    if config is not whole and hasattr(whole, "projection_dim"):
        config.projection_dim = whole.projection_dim
    _check(config, path)
    model, notes = _read(checkpoint, kind, whole if kind.gives == "logits" else config)
    size, patch = _size(checkpoint, kind, config), _pair(config.patch_size)
    kind.fit(model, size)
    preprocess = preprocess_of(checkpoint, size, squeezed=kind.squeezed)
    prefix = kind.cls + getattr(config, "num_register_tokens", 0)
    labels = _labels(said, whole, path) if kind.gives == "logits" else None
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
            merged_rows=bool(kind.rotary),
        ),
        files=checkpoint.weights.files,
        auto_seam=dict.fromkeys(("encoder_output", "projector_input", "projector_output"), seam),
        preprocess=preprocess,
        processor=ProcessorRecord(labels=_LABELS if labels else None),
        processor_files={_LABELS: json.dumps(labels, ensure_ascii=False).encode()} if labels else {},
        answer=kind.gives,
        omitted=_NO_TEXT if said.text_config is not None and kind.gives == "embedding" else "",
        notes=(*notes, *((f"a picture is stretched to {size[0]} x {size[1]}",) if kind.squeezed else ())),
        **colours(preprocess),
    )


def _check(config: Any, path: Any) -> None:
    """Refuse a configuration of a tower that takes no pictures, or gives no embedding."""
    what = ""
    if config.num_channels != 3:
        what = f"num_channels is {config.num_channels}, and pictures have 3"
    elif not getattr(config, "vision_use_head", True):
        what = "vision_use_head is false, so the tower pools nothing and gives no embedding"
    if what:
        raise RequestError(
            what,
            where=str(path),
            fix="Give package.module:callable, which returns the model as you use it and an example of its input.",
        )


def _read(checkpoint: Checkpoint, kind: Kind, config: Any) -> tuple[Any, tuple[str, ...]]:
    """The model with its weights, and what is to be said of it."""
    weights, options, notes = checkpoint.weights, {}, []
    if kind.model == "ViTModel" and not (weights.has("pooler") or weights.has("vit.pooler")):
        options["add_pooling_layer"] = False
        notes.append("this folder has no pooler: the embedding is CLS behind the last norm")
    # All tokens see each other, and a mask that says so would hold a row and a column for each of them.
    model = pretrained(checkpoint, getattr(transformers, kind.model), config, attention=UNMASKED, **options)
    return model, tuple(notes)


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


def _size(checkpoint: Checkpoint, kind: Kind, config: Any) -> tuple[int, int]:
    """[height, width] of the pictures: as config.json says, or, where any will do, as the processor makes them.

    Raises:
        RequestError: they are smaller than a patch, or larger than any tower takes.
    """
    own = getattr(config, "image_size", None) or math.isqrt(config.num_patches) * config.patch_size
    size = _pair(own)
    if kind.any_size:
        size = picture_size(checkpoint) or size
    if any(not patch <= side <= LONGEST_SIDE for side, patch in zip(size, _pair(config.patch_size))):
        raise RequestError(
            f"pictures of {size[0]} x {size[1]} are smaller than a patch, {config.patch_size}, or a side is longer "
            f"than {LONGEST_SIDE}",
            where=str(checkpoint.folder),
            fix="Download config.json and preprocessor_config.json again.",
        )
    return size


def _pair(size: int | tuple[int, int] | list[int]) -> tuple[int, int]:
    """(height, width)."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])
