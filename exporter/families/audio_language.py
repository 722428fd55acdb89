"""Audio models with a language model: a `Multimodal` whose encoder reads a log-mel spectrogram of one window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from ...runtimes.bundle.manifest import LogMelRecord
from ..sources.sound import log_mel_of
from .joined import encoder_of, joined
from .multimodal import Layout, Multimodal
from .spoken import heard

if TYPE_CHECKING:
    from ..sources.checkpoint import Checkpoint

_PADDED = "a shorter one ends in silence"
_MASKED = (
    f"{_PADDED}, which the model hears, where transformers leaves it out by its mask; to a sound that fills the window "
    "the answers are the same"
)


class Projected(nn.Module):
    """The encoder and the projector of a model of transformers."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.audio_tower, self.multi_modal_projector = model.audio_tower, model.multi_modal_projector

    def forward(self, input_features: Tensor) -> Tensor:
        """[1, mels, frames] float32 -> [1, N, D]."""
        return self.multi_modal_projector(self.audio_tower(input_features).last_hidden_state)


@dataclass
class AudioLanguage(Multimodal):
    """A checkpoint folder: an encoder of sound, and a language model that reads its tokens among words."""

    def real_inputs(self, n: int) -> list[dict[str, np.ndarray]]:
        """What the encoder takes for `n` windows of speech; see `spoken`."""
        assert isinstance(self.preprocess, LogMelRecord)
        return heard(n, "input_features", self.preprocess)


def opened(
    checkpoint: Checkpoint, config: Any, encoder: nn.Module, layout: Layout, stride: int, *, masks: bool
) -> AudioLanguage:
    """The source of one whose tokens may go behind its projector alone.

    Args:
        checkpoint: the folder.
        config: of it.
        encoder: with audio_tower and multi_modal_projector, whose weights are read here: input_features
            [1, mels, frames] -> tokens [1, N, D].
        layout: of the model.
        stride: frames of the spectrogram that become one token.
        masks: whether the model is shown no silence behind a sound that is shorter than the window.

    Raises:
        RequestError: weights or a feature extractor that do not belong to config.json; see
            `Multimodal.add_language`.
    """
    audio = config.audio_config
    for name in ("audio_tower", "multi_modal_projector"):
        checkpoint.weights.load(encoder.get_submodule(name), name)
    frames = 2 * audio.max_source_positions
    record = log_mel_of(checkpoint, audio.num_mel_bins, frames)
    seconds = record.samples / record.sample_rate
    graph = encoder_of(encoder, "input_features", (1, audio.num_mel_bins, frames), (frames // stride,))
    note = f"a sound is read as one of {seconds:g} s: {_MASKED if masks else _PADDED}"
    return joined(AudioLanguage, checkpoint, config, graph, layout, record, (note,))
