"""LFM2-VL: a SigLIP 2 tower, a pixel unshuffle and two matrices, over a language model most of whose layers are short
convolutions.

    pixel_values [1, 3, H, W] float32 -> tokens [1, N, D], N = (H / patch / downsample_factor) (W / ...)

One picture at one size, without the tiles into which the model cuts large ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn
from transformers import AutoConfig
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from ...errors import RequestError
from ..decoders.attention import UNMASKED
from ..sources.configuration import Pixels, built, typed
from ..sources.images import preprocess_of
from ..sources.source import GraphSource
from .joined import encoder_of, joined
from .layout import Layout, shell
from .siglip2 import Patches
from .two_parts import Language, Tower, TwoParts
from .visual import VisionLanguage, colours

if TYPE_CHECKING:
    from pathlib import Path

    from ..sources.checkpoint import Checkpoint

_LAYOUT = Layout(
    language_keys=("language_model",),
    head_keys=("lm_head",),
    becomes="<|image_start|><image><|image_end|>",
    tiles=True,
    joins="its pixel unshuffle makes one token of several neighbours",
)
_Few = Annotated[int, Field(ge=1, le=16)]
_Tokens = Annotated[int, Field(ge=1, le=1 << 16)]


class _Vision(Tower):
    """What is read of the vision tower."""

    num_patches: Annotated[int, Field(ge=1, le=1 << 20)] | None = None


class _Text(Language):
    """What is read of the language model."""

    conv_L_cache: Annotated[int, Field(ge=2, le=64)] | None = None


class _Config(TwoParts):
    """What is read of config.json."""

    vision_config: _Vision | None = None
    text_config: _Text | None = None
    downsample_factor: _Few | None = None


class _Processor(BaseModel):
    """What is read of the image processor beside the colours; its defaults are those of transformers."""

    encoder_patch_size: Pixels | None = None
    downsample_factor: _Few | None = None
    min_image_tokens: _Tokens = 64
    max_image_tokens: _Tokens = 256


class Projector(nn.Module):
    """[1, rows columns, C] -> [1, N, D]; `own` takes and gives a grid.

    Args:
        own: transformers' pixel unshuffle and matrices.
        patches: (rows, columns).
    """

    def __init__(self, own: nn.Module, patches: tuple[int, int]) -> None:
        super().__init__()
        self.own, self.patches = own, patches

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.own(x.unflatten(1, self.patches)).flatten(1, 2)


class Lfm2VLEncoder(nn.Module):
    """The tower and the projector of a model of transformers, for pictures of one size.

    Args:
        model: with its weights, which encoders for several sizes may share.
        grid: of tokens, (rows, columns).
    """

    def __init__(self, model: Any, grid: tuple[int, int]) -> None:
        super().__init__()
        tower, own = model.vision_tower, model.multi_modal_projector
        patches = (grid[0] * own.factor, grid[1] * own.factor)
        self.embeddings = Patches(tower.embeddings, patches)
        self.encoder, self.post_layernorm = tower.encoder, tower.post_layernorm
        self.multi_modal_projector = Projector(own, patches)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[1, 3, H, W] float32 -> [1, N, D]."""
        x = self.encoder(self.embeddings(pixel_values), attention_mask=None).last_hidden_state
        return self.multi_modal_projector(self.post_layernorm(x))


@dataclass
class Lfm2VLSource(VisionLanguage):
    """A folder; see the module docstring.

    Attributes:
        model: of transformers, with the weights of tower and projector.
    """

    model: Any = None

    def smaller_encoder(self, grid: tuple[int, ...]) -> GraphSource | None:
        """See `Source`; learned positions are stretched as the model's own code does it."""
        sides = self.encoder.inputs["pixel_values"].shape[2:]
        assert self.encoder.grid is not None, "as `open_family` made it"
        height, width = (side // own * count for side, own, count in zip(sides, self.encoder.grid, grid))
        return replace(
            self.encoder,
            module=Lfm2VLEncoder(self.model, (grid[0], grid[1])).eval(),
            inputs={"pixel_values": torch.zeros(1, 3, height, width)},
            grid=grid,
        )


def open_family(checkpoint: Checkpoint) -> Lfm2VLSource:
    """Open a Lfm2VlForConditionalGeneration folder.

    Raises:
        RequestError: the image processor cuts other patches than the encoder, or allows no square; weights or a
            tokenizer that do not belong to config.json.
    """
    path = checkpoint.folder / "config.json"
    typed(_Config, checkpoint.config, path)
    config: Any = built(lambda: AutoConfig.for_model(**checkpoint.config), path)
    height, width = size = _size(checkpoint, config)
    model: Any = shell(checkpoint, config, UNMASKED).model
    checkpoint.weights.load(model.vision_tower, "vision_tower", optional=("head",))
    checkpoint.weights.load(model.multi_modal_projector, "multi_modal_projector")
    token = config.vision_config.patch_size * config.downsample_factor
    grid = (height // token, width // token)
    preprocess = preprocess_of(checkpoint, size, squeezed=True)
    note = (
        f"every picture is stretched to {height} x {width} pixels, which are {math.prod(grid)} tokens, without the "
        "tiles of larger ones"
    )
    return joined(
        Lfm2VLSource,
        checkpoint,
        config,
        encoder_of(Lfm2VLEncoder(model, grid), "pixel_values", (1, 3, *size), grid),
        _LAYOUT,
        preprocess,
        (note,),
        image_size=size,
        model=model,
        **colours(preprocess),
    )


def _size(checkpoint: Checkpoint, config: Any) -> tuple[int, int]:
    """Height and width of pictures: what the processor makes of the size that was asked for, or its largest square."""
    path, found = checkpoint.optional("preprocessor_config.json", "processor_config.json")
    processor: _Processor = typed(_Processor, found.get("image_processor", found), path)
    own = {"encoder_patch_size": config.vision_config.patch_size, "downsample_factor": config.downsample_factor}
    for name, value in own.items():
        if getattr(processor, name) not in (None, value):
            raise RequestError(
                f"{name} of {path.name} is {getattr(processor, name)}, and the encoder of config.json has {value}",
                where=str(path),
                fix="Its files belong to different models: download the folder again.",
            )
    fewest, most = processor.min_image_tokens, processor.max_image_tokens
    step, side = math.prod(own.values()), math.isqrt(most)
    if checkpoint.image_size is None:
        _check_square(side, fewest, most, path)
        return side * step, side * step
    try:
        height, width = smart_resize(*checkpoint.image_size, step, fewest * step**2, most * step**2)
    except ValueError as error:
        raise RequestError(f"--image-size: {error}", fix="Give sides that are more alike.") from None
    return height, width


def _check_square(side: int, fewest: int, most: int, path: Path) -> None:
    """Refuse limits between which lies no square."""
    if side**2 < fewest:
        raise RequestError(
            f"no square has {fewest} to {most} tokens, as min_image_tokens and max_image_tokens say",
            where=str(path),
            fix=f"Set min_image_tokens to {side**2} or fewer.",
        )
