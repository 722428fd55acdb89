"""Voxtral: Whisper's encoder over thirty seconds of log-mel, whose neighbours are stacked, and a projector.

    input_features [1, mels, 8 N] float32 -> tokens [1, N, D], N = 375, D of the language model

transformers too fills a shorter sound with silence, and cuts a longer one to windows, which are left out here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, Field
from torch import Tensor
from transformers import VoxtralConfig

from ...errors import RequestError
from ..sources.configuration import Positions, built, typed
from .audio_language import AudioLanguage, Projected, opened
from .layout import Layout, shell
from .two_parts import Hearing, Language

if TYPE_CHECKING:
    from pathlib import Path

    from ..sources.checkpoint import Checkpoint

# mistral-common asks so, which writes no template into the folder.
_LAYOUT = Layout(
    media="audio",
    mark="[AUDIO]",
    becomes="[AUDIO]",
    asks=("{bos}[INST][BEGIN_AUDIO][AUDIO]", "[/INST]"),
    joins="its projector makes one token of several neighbours",
)


class _Audio(Hearing):
    """What is read of the encoder."""

    max_source_positions: Positions | None = None


class _Config(BaseModel):
    """What is read of config.json."""

    audio_config: _Audio | None = None
    text_config: Language | None = None
    audio_token_id: Annotated[int, Field(ge=0)]


class Stacked(Projected):
    """The encoder, whose neighbouring places become one as wide as they are together, and the projector."""

    def __init__(self, model: Any, width: int) -> None:
        super().__init__(model)
        self.width = width

    def forward(self, input_features: Tensor) -> Tensor:
        """[1, mels, frames] float32 -> [1, N, D]."""
        places = self.audio_tower(input_features).last_hidden_state
        return self.multi_modal_projector(places.reshape(len(places), -1, self.width))


def open_family(checkpoint: Checkpoint) -> AudioLanguage:
    """Open a VoxtralForConditionalGeneration folder.

    Raises:
        RequestError: places that do not stack to whole tokens; weights, a tokenizer or a feature extractor that do not
            belong to config.json.
    """
    path = checkpoint.folder / "config.json"
    typed(_Config, checkpoint.config, path)
    config = built(lambda: VoxtralConfig.from_dict(checkpoint.config), path)
    audio: Any = config.audio_config
    places = stacked(audio, audio.max_source_positions, path)
    encoder = Stacked(shell(checkpoint, config, "sdpa").model, audio.intermediate_size)
    return opened(checkpoint, config, encoder, _LAYOUT, 2 * places, "heard")


def stacked(audio: Any, positions: int, path: Path) -> int:
    """How many places become one.

    Args:
        audio: configuration of the encoder.
        positions: of it.
        path: of config.json.

    Raises:
        RequestError: they do not become whole tokens.
    """
    count, left = divmod(audio.intermediate_size, audio.hidden_size)
    if left or positions % count:
        raise RequestError(
            f"{positions} places of {audio.hidden_size} channels do not stack to whole tokens of "
            f"{audio.intermediate_size}",
            where=str(path),
            fix="Copy or download this file again.",
        )
    return count
