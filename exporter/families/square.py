"""The sources of models that join the tokens of their tower; most take one square picture, and end in a projector
behind a pixel shuffle or a pool.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ..sources.images import media_of, preprocess_of
from .joined import encoder_of, joined
from .visual import VisionLanguage, colours

if TYPE_CHECKING:
    from ..sources.checkpoint import Checkpoint
    from .multimodal import Layout

# Of the side of the square that images become, where a model takes any size and its folder allows it: one at which
# models read text of a page's headlines, with a number of tokens (256 of 28 pixels each way) that small devices hold.
SIDE = 448


class Projected(nn.Module):
    """The tower and the projector of a model of transformers."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.vision_tower, self.multi_modal_projector = model.vision_tower, model.multi_modal_projector

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[1, 3, S, S] float32 -> [1, N, D]."""
        return self.multi_modal_projector(self.vision_tower(pixel_values).last_hidden_state)


@dataclass
class Counted(VisionLanguage):
    """A source whose tokens form no grid: their number is what its encoder's graph has as `known`."""

    @property
    def tokens(self) -> int:
        """N."""
        return self.encoder.known


def square(
    checkpoint: Checkpoint,
    config: Any,
    encoder: nn.Module,
    size: int,
    side: int,
    layout: Layout,
    kind: type[VisionLanguage] = VisionLanguage,
) -> VisionLanguage:
    """The source of one that takes a square picture, or the frames of a video one by one.

    Args:
        checkpoint: the folder.
        config: of it.
        encoder: with its weights, pixel_values [1, 3, S, S] -> tokens [1, N, D].
        size: S.
        side: N is its square.
        layout: of the model.
        kind: of source.

    Raises:
        RequestError: see `VisionLanguage.add_language`.
    """
    preprocess = preprocess_of(checkpoint, (size, size), squeezed=True)
    read = f"of every video {len(layout.frames)} frames are" if layout.frames else "a picture is"
    note = f"{read} read at {size} x {size}{', without the tiles of larger ones' * layout.tiles}"
    graph = encoder_of(encoder, "pixel_values", (1, 3, size, size), (side, side))
    media = media_of(checkpoint, preprocess) if layout.frames else preprocess
    return joined(kind, checkpoint, config, graph, layout, media, (note,), **colours(preprocess))
