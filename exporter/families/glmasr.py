"""GLM-ASR: an encoder like Whisper's with rotary positions over thirty seconds of log-mel, stacked and projected.

    input_features [1, mels, 8 N] float32 -> tokens [1, N, D], N = 375, D of the language model

transformers cuts a longer sound to windows, which are left out here, and gives its language model fewer tokens of a
shorter one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, Field
from transformers import GlmAsrConfig

from ..sources.configuration import Positions, built, typed
from .audio_language import AudioLanguage, opened
from .layout import Layout, shell
from .two_parts import Hearing, Language
from .voxtral import Stacked, stacked

if TYPE_CHECKING:
    from ..sources.checkpoint import Checkpoint

_LAYOUT = Layout(
    media="audio",
    mark="<|pad|>",
    becomes="<|pad|>",
    joins="its projector makes one token of several neighbours",
)


class _Audio(Hearing):
    """What is read of the encoder."""

    max_position_embeddings: Positions | None = None


class _Config(BaseModel):
    """What is read of config.json."""

    audio_config: _Audio | None = None
    text_config: Language | None = None
    audio_token_id: Annotated[int, Field(ge=0)] | None = None


def open_family(checkpoint: Checkpoint) -> AudioLanguage:
    """Open a GlmAsrForConditionalGeneration folder.

    Raises:
        RequestError: see `voxtral.open_family`.
    """
    path = checkpoint.folder / "config.json"
    typed(_Config, checkpoint.config, path)
    config = built(lambda: GlmAsrConfig.from_dict(checkpoint.config), path)
    places = stacked(config.audio_config, config.audio_config.max_position_embeddings, path)
    encoder = Stacked(shell(checkpoint, config, "sdpa").model, config.audio_config.intermediate_size)
    return opened(checkpoint, config, encoder, _LAYOUT, 2 * places, "masked")
