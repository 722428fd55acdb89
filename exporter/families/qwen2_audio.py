"""Qwen2-Audio: an encoder like Whisper's over thirty seconds of log-mel, an average pool of two, and one matrix.

    input_features [1, mels, 4 N] float32 -> tokens [1, N, D], N = 750, D of the language model

transformers masks what lies behind a sound that is shorter than the window, and gives its language model fewer tokens.
The graphs have one length: behind a shorter sound the model hears silence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel
from transformers import Qwen2AudioConfig

from ..sources.configuration import Positions, built, typed
from .audio_language import AudioLanguage, Projected, opened
from .layout import Layout, shell
from .two_parts import Language, WhisperLike

if TYPE_CHECKING:
    from ..sources.checkpoint import Checkpoint

_LAYOUT = Layout(
    media="audio",
    mark="<|AUDIO|>",
    becomes="<|AUDIO|>",
    joins="its average pool makes one token of two neighbours",
)
# Frames of the spectrogram that become a token: the second convolution and the pool take every other place.
_STRIDE = 4


class _Audio(WhisperLike):
    """What is read of the encoder."""

    max_source_positions: Positions | None = None


class _Config(BaseModel):
    """What is read of config.json."""

    audio_config: _Audio | None = None
    text_config: Language | None = None
    audio_token_index: int | None = None


def open_family(checkpoint: Checkpoint) -> AudioLanguage:
    """Open a Qwen2AudioForConditionalGeneration folder.

    Raises:
        RequestError: weights, a tokenizer or a feature extractor that do not belong to config.json.
    """
    path = checkpoint.folder / "config.json"
    typed(_Config, checkpoint.config, path)
    config = built(lambda: Qwen2AudioConfig.from_dict(checkpoint.config), path)
    encoder = Projected(shell(checkpoint, config, "sdpa").model)
    return opened(checkpoint, config, encoder, _LAYOUT, _STRIDE, "masked")
