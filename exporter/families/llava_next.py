"""LLaVA-NeXT and LLaVA-OneVision: LLaVA's encoder, of a whole picture and of the tiles of a larger one.

    pixel_values [1, 1 + T, 3, S, S] float32 -> tokens [1, N, D]

The tokens of the whole picture come first, then those of the tiles as one picture, row by row, each row ended by a
token that is learned; what padding covers is cut off, and OneVision shrinks pictures of many tiles. How many tiles
there are and what is cut off follows from the shape of a picture, and a graph has one (see `Shape`): other pictures are
stretched to it. A compressor stands behind all that, so it may remove and merge tokens of any tile, and row ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from pydantic import BaseModel, Field, StringConstraints
from torch import Tensor, nn
from transformers import AutoConfig
from transformers.image_processing_utils import get_patch_output_size, select_best_resolution
from transformers.image_utils import ChannelDimension

from ...errors import RequestError
from ...runtimes.bundle.media_records import TilesRecord
from ..decoders.attention import UNMASKED
from ..sources.configuration import Pixels, built, typed
from ..sources.images import preprocess_of, processor_of
from ..sources.synthetic import image
from . import onevision_video
from .joined import encoder_of, joined
from .layout import Layout, shell
from .llava import UNUSED, Config, StackedEncoder, check_square, check_tower
from .square import Counted
from .visual import VisionLanguage, colours

if TYPE_CHECKING:
    from ..sources.checkpoint import Checkpoint

_Grids = list[tuple[Pixels, Pixels]]


class _Config(Config):
    """What is read of config.json."""

    image_grid_pinpoints: Annotated[_Grids, Field(min_length=1)] | None = None
    vision_aspect_ratio: Annotated[str, StringConstraints(pattern="^anyres_max_[1-9][0-9]{0,2}$")] | None = None


class _Processor(BaseModel):
    """What is read of the image processor beside the colours."""

    image_grid_pinpoints: _Grids | None = None


@dataclass(frozen=True)
class Shape:
    """Of the pictures that a graph takes.

    Attributes:
        size: [height, width] in pixels; pictures of the same shape are cut in the same way.
        grid: rows and columns of tiles.
        fitted: see `TilesRecord`.
    """

    size: tuple[int, int]
    grid: tuple[int, int]
    fitted: tuple[int, int]

    @classmethod
    def of(cls, size: tuple[int, int], grids: _Grids, side: int) -> Shape:
        """What the image processor makes of a picture of that size.

        Args:
            size: in pixels.
            grids: heights and widths of all tiles together, of which the processor takes the one that suits best.
            side: S.
        """
        whole = select_best_resolution(size, grids)
        fitted = get_patch_output_size(np.empty((1, *size), bool), whole, ChannelDimension.FIRST)
        return cls(size, (whole[0] // side, whole[1] // side), fitted)

    @property
    def tiles(self) -> int:
        """T."""
        return self.grid[0] * self.grid[1]


class Packed(nn.Module):
    """The projector of a model of transformers, and what the model does with the tokens of tiles."""

    def __init__(self, model: Any, size: tuple[int, int]) -> None:
        super().__init__()
        self.multi_modal_projector, self.image_newline = model.multi_modal_projector, model.image_newline
        # Not a submodule: it is called for how it packs, which has no weights.
        self._pack, self.size = model.pack_image_features, size
        config = model.config
        # The two name, and order, their arguments differently.
        self.settings = (
            {"vision_aspect_ratio": config.vision_aspect_ratio}
            if hasattr(config, "vision_aspect_ratio")
            else {"vision_feature_select_strategy": config.vision_feature_select_strategy}
        )

    def forward(self, features: Tensor) -> Tensor:
        """[1 + T, (S / patch)^2, C] -> [1, N, D]."""
        return self.packed(self.multi_modal_projector(features))

    def packed(self, tokens: Tensor) -> Tensor:
        """[1 + T, (S / patch)^2, D] -> [1, N, D]."""
        return self._pack([tokens], [self.size], image_newline=self.image_newline, **self.settings)[0][0][None]


@dataclass
class TiledSource(Counted):
    """A folder; see the module docstring.

    Attributes:
        shape: of its pictures.
    """

    shape: Shape | None = None

    def real_inputs(self, n: int) -> list[dict[str, np.ndarray]]:
        """See `VisionLanguage`; tiles show parts of the picture."""
        assert self.shape is not None, "a source of this family has one"
        (rows, columns), side = self.shape.grid, self.encoder.inputs["pixel_values"].shape[-1]
        mean, std = (np.asarray(values, np.float32)[:, None, None] for values in (self.mean, self.std))
        made = []
        for number in range(n):
            large = image(number, rows * side, columns * side).reshape(3, rows, side, columns, side)
            tiles = large.transpose(1, 3, 0, 2, 4).reshape(-1, 3, side, side)
            views = np.concatenate([image(number, side, side)[None], tiles])
            made.append({"pixel_values": ((views - mean) / std)[None]})
        return made


def open_family(checkpoint: Checkpoint) -> VisionLanguage:
    """Open a LlavaNextForConditionalGeneration or LlavaOnevisionForConditionalGeneration folder.

    Raises:
        RequestError: a vision tower that is not known, or tokens that form no square; weights or a tokenizer that do
            not belong to config.json.
    """
    path = checkpoint.folder / "config.json"
    typed(_Config, checkpoint.config, path)
    config: Any = built(lambda: AutoConfig.for_model(**checkpoint.config), path)
    vision = config.vision_config
    if checkpoint.clip is not None and config.model_type == "llava_onevision":
        return onevision_video.open_video(checkpoint, config, checkpoint.clip)
    side, patches = vision.image_size, vision.image_size // vision.patch_size
    check_tower(checkpoint, vision)
    shape = Shape.of(checkpoint.image_size or (2 * side, 2 * side), _grids(checkpoint, config), side)
    model = shell(checkpoint, config, UNMASKED).model
    packed = Packed(model, shape.size)
    tokens = torch.empty(1 + shape.tiles, patches**2, config.text_config.hidden_size, device="meta")
    count = built(lambda: packed.packed(tokens), path).shape[1]
    encoder = StackedEncoder(config, model.vision_tower, packed)
    check_square(encoder, config, path)
    checkpoint.weights.load(encoder.vision_tower, "vision_tower", optional=UNUSED)
    checkpoint.weights.load(packed, "")
    preprocess = preprocess_of(checkpoint, (side, side), squeezed=True)
    if preprocess is not None:
        preprocess = preprocess.model_copy(update={"tiles": TilesRecord(grid=shape.grid, fitted=shape.fitted)})
    note = (
        f"a picture is read as one of {shape.size[0]} x {shape.size[1]} pixels, whole and in {shape.grid[0]} x "
        f"{shape.grid[1]} tiles, {count} tokens; others are stretched to that shape"
    )
    graph = encoder_of(encoder, "pixel_values", (1, 1 + shape.tiles, 3, side, side), known=count)
    return joined(
        TiledSource,
        checkpoint,
        config,
        graph,
        Layout(
            joins="it puts the tokens of its tiles together row by row",
            alone="this model reads no tiles of several pictures" if hasattr(config, "vision_aspect_ratio") else "",
        ),
        preprocess,
        (note,),
        image_size=shape.size,
        shape=shape,
        **colours(preprocess),
    )


def _grids(checkpoint: Checkpoint, config: Any) -> _Grids:
    """Of tiles, which the image processor and the model must agree on."""
    own = [(height, width) for height, width in config.image_grid_pinpoints]
    path, found = processor_of(checkpoint)
    processor: _Processor = typed(_Processor, found, path)
    if processor.image_grid_pinpoints not in (None, own):
        raise RequestError(
            f"image_grid_pinpoints of {path.name} is not that of config.json: it cuts other tiles than the model reads",
            where=str(path),
            fix="Its files belong to different models: download the folder again.",
        )
    return own
