"""How a checkpoint turns sound into its encoder's input, read from the configuration of its feature extractor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, Field, FiniteFloat

from ...errors import RequestError
from ...runtimes.bundle.manifest import LogMelRecord, WaveformRecord
from .configuration import typed

if TYPE_CHECKING:
    from .checkpoint import Checkpoint

# What is no setting of a log-mel record: the filters of transformers end at 8 kHz, whatever the rate.
_RATE = 16000
_EXTRACTOR = "WhisperFeatureExtractor"
_OF_WAVEFORMS = "Wav2Vec2FeatureExtractor"

_Count = Annotated[int, Field(ge=1, le=1 << 20)]


class _Extractor(BaseModel):
    """What is read of a feature extractor's configuration; what is not there has the default of transformers."""

    feature_extractor_type: str = _EXTRACTOR
    feature_size: _Count | None = None
    sampling_rate: _Count = _RATE
    hop_length: _Count = 160
    chunk_length: _Count | None = None
    n_fft: _Count = 400
    padding_value: FiniteFloat = 0.0
    dither: FiniteFloat = 0.0


def log_mel_of(checkpoint: Checkpoint, mels: int, frames: int) -> LogMelRecord:
    """Read preprocessor_config.json, or the feature extractor's part of processor_config.json.

    Args:
        checkpoint: the folder; without such a file, it does what Whisper does.
        mels: height of the encoder's input, as config.json says.
        frames: its width.

    Raises:
        RequestError: the file does not belong to config.json, or asks for what a `LogMelRecord` cannot express.
    """
    path, found = checkpoint.optional("preprocessor_config.json", "processor_config.json")
    config: _Extractor = typed(_Extractor, found.get("feature_extractor", found), path)

    def refuse(what: str, fix: str) -> RequestError:
        return RequestError(f"{path.name} {what}", where=str(path), fix=fix)

    if config.feature_size not in (None, mels):
        raise refuse(
            f"has feature_size {config.feature_size}, and config.json num_mel_bins {mels}",
            "The two files belong to different models: download the folder again.",
        )
    seconds = frames * config.hop_length / config.sampling_rate
    if config.chunk_length is not None and config.chunk_length * config.sampling_rate != frames * config.hop_length:
        raise refuse(
            f"has a chunk_length of {config.chunk_length} s, and max_source_positions {frames // 2} of config.json is "
            f"{seconds:g} s",
            "The two files belong to different models: download the folder again.",
        )
    _only(config, path, feature_extractor_type=_EXTRACTOR, sampling_rate=_RATE, padding_value=0.0, dither=0.0)
    return LogMelRecord(
        kind="log_mel",
        sample_rate=config.sampling_rate,
        n_fft=config.n_fft,
        hop=config.hop_length,
        mels=mels,
        frames=frames,
    )


class _OfWaveforms(BaseModel):
    """What is read of the configuration of an extractor that leaves a sound as it is."""

    feature_extractor_type: str = _OF_WAVEFORMS
    feature_size: _Count = 1
    sampling_rate: _Count = _RATE
    padding_value: FiniteFloat = 0.0
    padding_side: str = "right"
    do_normalize: bool = True


def waveform_of(checkpoint: Checkpoint, seconds: int) -> WaveformRecord:
    """Read preprocessor_config.json, or the feature extractor's part of processor_config.json.

    Args:
        checkpoint: the folder; without such a file, the waveform is taken as it is.
        seconds: of the longest sound.

    Raises:
        RequestError: the file asks for what a `WaveformRecord` cannot express, or for a rate other than 16 kHz.
    """
    path, found = checkpoint.optional("preprocessor_config.json", "processor_config.json")
    config: _OfWaveforms = typed(_OfWaveforms, found.get("feature_extractor", found), path)
    _only(
        config,
        path,
        feature_extractor_type=_OF_WAVEFORMS,
        feature_size=1,
        sampling_rate=_RATE,
        padding_value=0.0,
        padding_side="right",
    )
    return WaveformRecord(
        kind="waveform",
        sample_rate=config.sampling_rate,
        samples=seconds * config.sampling_rate,
        normalize=bool(found) and config.do_normalize,
    )


def _only(config: BaseModel, path: Path, **supported: str | float) -> None:
    for name, one in supported.items():
        value = getattr(config, name)
        if value != one:
            taken = "input_features" if _EXTRACTOR in supported.values() else "input_values"
            raise RequestError(
                f"{path.name} has {name} {value}, and only {one} is supported",
                where=str(path),
                fix=f"Give the encoder as package.module:callable, and make its {taken} yourself.",
            )
