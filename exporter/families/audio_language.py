"""Audio models with a language model: a `Multimodal` whose encoder reads a log-mel spectrogram of one window."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import Tensor, nn

from ...errors import RequestError
from ...runtimes.bundle.manifest import LogMelRecord
from ..sources.sound import log_mel_of
from .joined import encoder_of, joined
from .layout import Layout
from .limits import check_lengths
from .multimodal import Multimodal
from .spoken import heard

if TYPE_CHECKING:
    from ..sources.checkpoint import Checkpoint
    from ..sources.source import GraphSource

# What transformers does with the silence behind a sound that is shorter than the window.
Silence = Literal["heard", "masked", "absent"]

_PADDED = "a shorter one ends in silence"
_FULL = "to a sound that fills the window the answers are the same"
_SHORTER: dict[Silence, str] = {
    "heard": _PADDED,
    "masked": f"{_PADDED}, which the model hears, where transformers leaves it out by its mask; {_FULL}",
    "absent": f"{_PADDED}, which the model hears, where transformers adds none; {_FULL}",
}
# Seconds of the longest window where a model has none of its own: all of it is in memory at once.
_LONGEST = 300


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
    """A checkpoint folder: an encoder of sound, and a language model that reads its tokens among words.

    Attributes:
        silence: see `Silence`.
        sized: the encoder for so many frames, over the same weights; None where the model has one window.
        step: frames of a window are a multiple of it.
    """

    silence: Silence = "heard"
    sized: Callable[[int], GraphSource] | None = None
    step: int = 1

    @property
    def sound(self) -> LogMelRecord:
        """How a sound becomes the encoder's input."""
        assert isinstance(self.preprocess, LogMelRecord)
        return self.preprocess

    def real_inputs(self, n: int) -> list[dict[str, np.ndarray]]:
        """What the encoder takes for `n` windows of speech; see `spoken`."""
        return heard(n, "input_features", self.sound)

    def windowed(self, seconds: float) -> AudioLanguage:
        """See `Source`: also a longer one, where the model reads sounds of any length."""
        if self.sized is None:
            return super().windowed(seconds)  # type: ignore[return-value]
        record = self.sound
        frames, step = round(seconds * record.sample_rate / record.hop), self.step * record.hop / record.sample_rate
        if frames % self.step or not step <= seconds <= _LONGEST:
            raise RequestError(
                f"a window of {seconds:g} s is no multiple of {step:g} s up to {_LONGEST} s, of which the encoder of "
                f"{self.name} makes whole tokens",
                fix=f"Give for example --window {max(1, min(round(seconds / step), int(_LONGEST / step))) * step:g}.",
            )
        made = replace(
            self,
            encoder=self.sized(frames),
            preprocess=record.model_copy(update={"frames": frames}),
            notes=(_note(seconds, self.silence), *self.notes[1:]),
            window=float(seconds),
        )
        if made.marks is not None:
            check_lengths(made)
        return made


def opened(
    checkpoint: Checkpoint, config: Any, encoder: nn.Module, layout: Layout, stride: int, silence: Silence
) -> AudioLanguage:
    """The source of one whose encoder is like Whisper's, and has one window.

    Args:
        checkpoint: the folder.
        config: of it.
        encoder: with audio_tower and multi_modal_projector, whose weights are read here: input_features
            [1, mels, frames] -> tokens [1, N, D].
        layout: of the model.
        stride: frames of the spectrogram that become one token.
        silence: see `AudioLanguage`.

    Raises:
        RequestError: weights or a feature extractor that do not belong to config.json; see
            `Multimodal.add_language`.
    """
    load(checkpoint, encoder)
    audio = config.audio_config
    positions = getattr(audio, "max_source_positions", None) or audio.max_position_embeddings
    record = log_mel_of(checkpoint, audio.num_mel_bins, 2 * positions)
    graph = encoder_of(encoder, "input_features", (1, record.mels, record.frames), (record.frames // stride,))
    return spoken_to(checkpoint, config, graph, layout, record, silence)


def spoken_to(
    checkpoint: Checkpoint,
    config: Any,
    encoder: GraphSource,
    layout: Layout,
    record: LogMelRecord,
    silence: Silence,
    kind: type[AudioLanguage] = AudioLanguage,
    **more: Any,
) -> AudioLanguage:
    """The source of a model whose tokens may go behind its projector alone; see `joined`, and `AudioLanguage`."""
    note = _note(record.samples / record.sample_rate, silence)
    return joined(kind, checkpoint, config, encoder, layout, record, (note,), silence=silence, **more)


def load(checkpoint: Checkpoint, encoder: nn.Module) -> None:
    """Read the weights of its parts, which have the names that they have in the folder.

    Raises:
        RequestError: they do not belong to config.json.
    """
    for name, part in encoder.named_children():
        checkpoint.weights.load(part, name)


def _note(seconds: float, silence: Silence) -> str:
    return f"a sound is read as one of {seconds:g} s: {_SHORTER[silence]}"
