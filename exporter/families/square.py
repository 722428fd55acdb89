"""The source of a model whose encoder takes one square picture and ends in a projector behind a pixel shuffle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..sources.images import preprocess_of
from ..sources.source import GraphSource
from .visual import HALVES, Layout, VisionLanguage

if TYPE_CHECKING:
    from ..sources.checkpoint import Checkpoint


def square(
    checkpoint: Checkpoint, config: Any, encoder: nn.Module, size: int, side: int, layout: Layout
) -> VisionLanguage:
    """The source; see the module docstring.

    Args:
        checkpoint: the folder.
        config: of it.
        encoder: with its weights, pixel_values [1, 3, S, S] -> tokens [1, N, D].
        size: S.
        side: N is its square.
        layout: of the model.

    Raises:
        RequestError: see `VisionLanguage.add_language`.
    """
    preprocess = preprocess_of(checkpoint, (size, size), squeezed=True)
    source = VisionLanguage(
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
        notes=(f"a picture is read at {size} x {size}, without the tiles of larger ones",),
        config=config,
        checkpoint=checkpoint,
        layout=layout,
        placeholder=config.image_token_id,
        mean=preprocess.mean if preprocess else HALVES,
        std=preprocess.std if preprocess else HALVES,
    )
    return source.opened("projector_output")
