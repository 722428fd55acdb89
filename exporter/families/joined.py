"""The sources of models that join what their tower gives, so that tokens may go behind their projector alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from ..sources.source import GraphSource
from .layout import Layout
from .multimodal import Multimodal

if TYPE_CHECKING:
    from ...runtimes.bundle.media_records import Preprocess
    from ..sources.checkpoint import Checkpoint

Made = TypeVar("Made", bound=Multimodal)


def encoder_of(
    module: nn.Module,
    name: str,
    shape: tuple[int, ...],
    grid: tuple[int, ...] | None = None,
    known: int = 0,
    *,
    merged_rows: bool = False,
) -> GraphSource:
    """The graph of an encoder of one input.

    Args:
        module: with its weights, float32 of `shape` -> tokens [1, N, D].
        name: of the input.
        shape: of it.
        grid: of the tokens, where they fill one.
        known: see `GraphSource`.
        merged_rows: likewise; where the module hands its tables to its layers, it needs no method `at`.
    """
    return GraphSource(
        role="encoder",
        module=module.eval(),
        inputs={name: torch.zeros(shape)},
        outputs=("tokens",),
        grid=grid,
        known=known,
        merged_rows=merged_rows,
    )


def joined(
    kind: type[Made],
    checkpoint: Checkpoint,
    config: Any,
    encoder: GraphSource,
    layout: Layout,
    preprocess: Preprocess | None,
    notes: tuple[str, ...],
    text_seam: str = "projector_output",
    **more: Any,
) -> Made:
    """The source of such a model.

    Args:
        kind: of source.
        checkpoint: the folder.
        config: of it.
        encoder: see `encoder_of`.
        layout: of the model.
        preprocess: of its pictures or sounds.
        notes: see `Source`.
        text_seam: see `Multimodal.opened`.
        more: fields of `kind`, such as the colours of pictures.

    Raises:
        RequestError: see `Multimodal.add_language`.
    """
    source = kind(
        kind="checkpoint",
        name=checkpoint.name,
        # An encoder that reads frame by frame sees pictures.
        modality="image" if layout.frames else layout.media,
        encoder=encoder,
        files=checkpoint.weights.files,
        auto_seam=dict.fromkeys(("encoder_output", "projector_input", "projector_output"), "projector_output"),
        preprocess=preprocess,
        notes=notes,
        config=config,
        checkpoint=checkpoint,
        layout=layout,
        clip=checkpoint.clip if layout.media == "video" else None,
        windows=layout.windows,
        placeholder=getattr(config, f"{layout.media}_token_id", None) or config.image_token_id,
        **more,
    )
    return source.opened(text_seam)
