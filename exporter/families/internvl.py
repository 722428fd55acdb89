"""InternVL as transformers has it: a ViT without its CLS token, a pixel shuffle and a projector.

    pixel_values [1, 3, S, S] float32 -> tokens [1, N, D], N = (downsample_ratio S / patch)^2

One picture of the tower's own size, without the tiles that the model cuts beside it; or a frame of a video.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field
from torch import Tensor, nn
from transformers import AutoConfig

from ...errors import RequestError
from ..sources.configuration import Pixels, built, typed
from .between_frames import between, counted
from .layout import Layout, shell
from .square import square
from .two_parts import Tower, TwoParts
from .visual import VisionLanguage

if TYPE_CHECKING:
    from ..sources.checkpoint import Checkpoint

_LAYOUT = Layout(
    mark="<IMG_CONTEXT>",
    becomes="<img><IMG_CONTEXT></img>",
    tiles=True,
    joins="its pixel shuffle makes one token of several neighbours",
)
_Side = Pixels | Annotated[list[Pixels], Field(min_length=2, max_length=2)]


class _Vision(Tower):
    """What is read of the vision tower, whose sides may be pairs."""

    image_size: _Side | None = None  # type: ignore[assignment]
    patch_size: _Side | None = None  # type: ignore[assignment]


class _Config(TwoParts):
    """What is read of config.json."""

    vision_config: _Vision | None = None
    downsample_ratio: Annotated[float, Field(gt=0, le=1)] | None = None
    vision_feature_layer: Literal[-1] | None = None
    vision_feature_select_strategy: Literal["default"] | None = None


class InternVLEncoder(nn.Module):
    """The tower, the pixel shuffle and the projector of a model of transformers."""

    def __init__(self, model: Any, ratio: float) -> None:
        super().__init__()
        self.vision_tower, self.multi_modal_projector = model.vision_tower, model.multi_modal_projector
        # Not a submodule: it is called for its pixel shuffle, which has no weights.
        self._shuffle, self.ratio = model.pixel_shuffle, ratio

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[1, 3, S, S] float32 -> [1, N, D]."""
        patches = self.vision_tower(pixel_values).last_hidden_state[:, 1:]
        side = int(patches.shape[1] ** 0.5)
        shuffled = self._shuffle(patches.reshape(len(patches), side, side, -1), scale_factor=self.ratio)
        return self.multi_modal_projector(shuffled.reshape(len(patches), -1, shuffled.shape[-1]))


def open_family(checkpoint: Checkpoint) -> VisionLanguage:
    """Open an InternVLForConditionalGeneration folder.

    Raises:
        RequestError: a picture that is no square or has no whole number of tokens; weights or a tokenizer that do not
            belong to config.json.
    """
    path = checkpoint.folder / "config.json"
    typed(_Config, checkpoint.config, path)
    config: Any = built(lambda: AutoConfig.for_model(**checkpoint.config), path)
    (height, width), (patch, other) = config.vision_config.image_size, config.vision_config.patch_size
    side = height // patch * config.downsample_ratio
    if height != width or patch != other or side != int(side):
        raise RequestError(
            f"a picture of {height} x {width} in patches of {patch} x {other} gives no square of whole tokens with "
            f"downsample_ratio {config.downsample_ratio}",
            where=str(path),
            fix="Copy or download this file again.",
        )
    encoder = InternVLEncoder(shell(checkpoint, config, "sdpa").model, config.downsample_ratio)
    checkpoint.weights.load(encoder.vision_tower, "vision_tower")
    checkpoint.weights.load(encoder.multi_modal_projector, "multi_modal_projector")
    layout = between(checkpoint, _LAYOUT, counted, "<video>")
    return square(checkpoint, config, encoder, height, int(side), layout)
