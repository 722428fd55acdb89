"""Mistral 3 and Pixtral: a ViT whose queries and keys rotate by row and column, and rows of tokens with an end.

    pixel_values [1, 3, H, W] float32 -> tokens [1, N, D], N = rows (columns + 1) - 1

A token is one patch of Pixtral, which is a LLaVA to transformers, or four of Mistral 3. The models take images of any
size, and a graph takes one. In a prompt the word [IMG_BREAK] ends each row of tokens but the last, which [IMG_END]
ends. The row ends are constants to the encoder, and stand among its tokens: so a compressor may also remove and merge
these, while [IMG_END] stays in every prompt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn
from transformers import AutoConfig
from transformers.image_utils import ChannelDimension
from transformers.models.pixtral.image_processing_pil_pixtral import get_resize_output_image_size

from ...errors import RequestError
from ..decoders.attention import UNMASKED
from ..sources.configuration import Pixels, built, typed
from ..sources.images import preprocess_of
from ..sources.tokenizer import FILE, tokenizer_of
from ..sources.weights import without_weights
from .joined import encoder_of, joined
from .layout import Layout, prefix_of, shell
from .square import SIDE, Counted
from .two_parts import TwoParts
from .visual import colours

if TYPE_CHECKING:
    from ..sources.checkpoint import Checkpoint

_LAYOUT = Layout(mark="[IMG]", becomes="[IMG][IMG_END]", joins="it ends every row of tokens with a word")
_BREAK = "[IMG_BREAK]"


class _Config(TwoParts):
    """What is read of config.json."""

    spatial_merge_size: Annotated[int, Field(ge=1, le=16)] | None = None
    vision_feature_layer: int | list[int] | None = None


class _Size(BaseModel):
    longest_edge: Pixels | None = None


class _Processor(BaseModel):
    """What is read of the image processor beside the colours; its default is that of transformers."""

    size: _Size = _Size()


class RowsEncoder(nn.Module):
    """What `get_image_features` computes for one image of a model of transformers, with the ends of its rows.

    Args:
        model: with `vision_tower` and `multi_modal_projector`.
        size: height and width of the image.
        columns: tokens of a row.
        end: [D], of a row.
    """

    def __init__(self, model: Any, size: tuple[int, int], columns: int, end: Tensor) -> None:
        super().__init__()
        layer = model.config.vision_feature_layer
        self.layers = [layer] if isinstance(layer, int) else list(layer)
        self.size, self.vision_tower = size, model.vision_tower
        self.multi_modal_projector = Rows(model, columns, end)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[1, 3, H, W] float32 -> [1, N, D]."""
        states = self.vision_tower(pixel_values, image_sizes=[self.size], output_hidden_states=True).hidden_states
        return self.multi_modal_projector(torch.cat([states[layer] for layer in self.layers], -1))


class Turned(nn.Module):
    """How patches of one image rotate, as the tower's own module computes it for them, in tables.

    Args:
        own: that module.
        patches: rows and columns.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, own: Any, patches: tuple[int, int]) -> None:
        super().__init__()
        places = torch.cartesian_prod(*(torch.arange(side) for side in patches))
        with torch.no_grad():
            for name, table in zip(("cos", "sin"), own(torch.zeros(1), places), strict=True):
                self.register_buffer(name, table, persistent=False)

    def forward(self, *_: Tensor) -> tuple[Tensor, Tensor]:
        """Two tables [patches, d]."""
        return self.cos, self.sin


class Rows(nn.Module):
    """The projector; see `RowsEncoder`."""

    end: Tensor

    def __init__(self, model: Any, columns: int, end: Tensor) -> None:
        super().__init__()
        self.projector, self.columns = model.multi_modal_projector, columns
        # How patches lie, for which `Merger` does not ask, but the projector of Mistral 3.
        self.lying: tuple[Any, ...] = ()
        if merger := getattr(self.projector, "patch_merger", None):
            self.projector.patch_merger, self.lying = Merger(merger, columns), (None,)
        self.register_buffer("end", end, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """[1, patches, C] -> [1, N, D]."""
        rows = self.projector(features[0], *self.lying).unflatten(0, (-1, self.columns))
        return torch.cat([rows, self.end.expand(len(rows), 1, -1)], 1).flatten(0, 1)[None, :-1]


class Merger(nn.Module):
    """What `Mistral3PatchMerger` computes for one image, without asking how many there are."""

    def __init__(self, merger: Any, columns: int) -> None:
        super().__init__()
        self.merging_layer, self.side, self.columns = merger.merging_layer, merger.spatial_merge_size, columns

    def forward(self, features: Tensor, _: None) -> Tensor:
        """[patches, C] -> [tokens, C]."""
        squares = features.unflatten(0, (-1, self.side, self.columns, self.side))
        return self.merging_layer(squares.permute(0, 2, 4, 1, 3).flatten(2).flatten(0, 1))


def open_family(checkpoint: Checkpoint) -> Counted:
    """Open a Mistral3ForConditionalGeneration folder, or a LlavaForConditionalGeneration over a Pixtral tower.

    Raises:
        RequestError: no language model or no tokenizer, which say how rows end; weights or a tokenizer that do not
            belong to config.json.
    """
    path = checkpoint.folder / "config.json"
    typed(_Config, checkpoint.config, path)
    config: Any = built(lambda: AutoConfig.for_model(**checkpoint.config), path)
    if getattr(config, "vision_feature_select_strategy", "full") != "full":
        raise RequestError(
            f"vision_feature_select_strategy of config.json is {config.vision_feature_select_strategy}, and the first "
            "token of this tower is a patch",
            where=str(path),
            fix="Set it to full: released models of this family say so.",
        )
    model = shell(checkpoint, config, UNMASKED).model
    token = config.vision_config.patch_size * getattr(config, "spatial_merge_size", 1)
    size = _size(checkpoint, token, config.vision_config.image_size)
    rows = (size[0] // token, size[1] // token)
    encoder = RowsEncoder(model, size, rows[1], _end(checkpoint, config))
    checkpoint.weights.load(encoder.vision_tower, "vision_tower")
    checkpoint.weights.load(encoder.multi_modal_projector.projector, "multi_modal_projector")
    tower, patch = encoder.vision_tower, config.vision_config.patch_size
    tower.patch_positional_embedding = Turned(tower.patch_positional_embedding, (size[0] // patch, size[1] // patch))
    # The proof takes what stands behind the layers for downstream of them (see `torch_tables`).
    layers = tower.transformer
    del tower.transformer
    tower.transformer = layers
    preprocess = preprocess_of(checkpoint, size, squeezed=True)
    count = rows[0] * (rows[1] + 1) - 1
    note = f"every image is stretched to {size[0]} x {size[1]} pixels, which are {count} tokens"
    graph = encoder_of(encoder, "pixel_values", (1, 3, *size), known=count, merged_rows=True)
    return joined(
        Counted, checkpoint, config, graph, _LAYOUT, preprocess, (note,), image_size=size, **colours(preprocess)
    )


def _size(checkpoint: Checkpoint, token: int, largest: int) -> tuple[int, int]:
    """What the image processor makes of the size that was asked for: no side longer than it allows, of whole tokens."""
    path, found = checkpoint.optional("preprocessor_config.json", "processor_config.json")
    processor: _Processor = typed(_Processor, found.get("image_processor", found), path)
    asked, longest = checkpoint.image_size or (SIDE, SIDE), processor.size.longest_edge or largest
    made = get_resize_output_image_size(np.empty((1, *asked), bool), longest, token, ChannelDimension.FIRST)
    return made[0], made[1]


def _end(checkpoint: Checkpoint, config: Any) -> Tensor:
    """Of a row, [D]: what the language model reads for the word."""
    prefix, text = prefix_of(checkpoint, _LAYOUT), config.text_config
    if not prefix or not (checkpoint.folder / FILE).is_file():
        lacks = f"file {FILE}" if prefix else "language model"
        raise RequestError(
            f"this folder has no {lacks}, and rows of this model's tokens end in a word, {_BREAK}",
            where=str(checkpoint.folder),
            fix="Copy it from where the model comes from.",
        )
    _, ids = tokenizer_of(checkpoint, text.vocab_size)
    if _BREAK not in ids:
        raise RequestError(
            f"{FILE} knows no {_BREAK}, in which rows of this model's tokens end",
            where=str(checkpoint.folder / FILE),
            fix="The files belong to different models: download the folder again.",
        )
    with without_weights():
        words = nn.Embedding(text.vocab_size, text.hidden_size)
    checkpoint.weights.load(words, f"{prefix}.embed_tokens")
    return words.weight[ids[_BREAK]].detach().clone()
