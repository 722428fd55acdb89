"""The source of a model whose encoder takes one square picture and ends in a projector behind a pixel shuffle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..sources.images import preprocess_of
from ..sources.source import GraphSource
from .visual import HALVES, Layout, VisionLanguage

if TYPE_CHECKING:
    from ..sources.checkpoint import Checkpoint


class Projected(nn.Module):
    """The tower and the projector of a model of transformers."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.vision_tower, self.multi_modal_projector = model.vision_tower, model.multi_modal_projector

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[1, 3, S, S] float32 -> [1, N, D]."""
        return self.multi_modal_projector(self.vision_tower(pixel_values).last_hidden_state)


def square(
    checkpoint: Checkpoint,
    config: Any,
    encoder: nn.Module,
    size: int,
    side: int,
    layout: Layout,
    kind: type[VisionLanguage] = VisionLanguage,
) -> VisionLanguage:
    """The source; see the module docstring.

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
    source = kind(
        kind="checkpoint",
        name=checkpoint.name,
        modality="image",
        encoder=GraphSource(
            role="encoder",
            module=encoder.eval(),
            inputs={"pixel_values": torch.zeros(1, 3, size, size)},
            outputs=("tokens",),
            grid=(side, side),
        ),
        files=checkpoint.weights.files,
        # The shuffle joins neighbours, so in front of it every token must stay.
        auto_seam=dict.fromkeys(("encoder_output", "projector_input", "projector_output"), "projector_output"),
        preprocess=preprocess,
        notes=(f"a picture is read at {size} x {size}{', without the tiles of larger ones' * layout.tiles}",),
        config=config,
        checkpoint=checkpoint,
        layout=layout,
        placeholder=config.image_token_id,
        mean=preprocess.mean if preprocess else HALVES,
        std=preprocess.std if preprocess else HALVES,
    )
    return source.opened("projector_output")
