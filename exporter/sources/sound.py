"""How a checkpoint turns sound into its encoder's input, read from the configuration of its feature extractor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

from pydantic import BaseModel, Field, FiniteFloat

from ...errors import RequestError
from ...runtimes.bundle.manifest import LogMelRecord, WaveformRecord
from .configuration import typed

if TYPE_CHECKING:
    from .checkpoint import Checkpoint

# What is no setting of a log-mel record: the filters of transformers end at 8 kHz, whatever the rate.
_RATE = 16000
_EXTRACTOR = "WhisperFeatureExtractor"
_CHUNKED = "Qwen3ASRFeatureExtractor"
_GRANITE = "GraniteSpeechFeatureExtractor"
_OF_WAVEFORMS = "Wav2Vec2FeatureExtractor"
# Of the window of a model that reads sounds of any length, in seconds, where its folder names none.
_WINDOW = 30
_OTHER = "The two files belong to different models: download the folder again."

_Count = Annotated[int, Field(ge=1, le=1 << 20)]
# Of a window of the Fourier transform.
_Samples = Annotated[int, Field(ge=2, le=1 << 20)]


class _Extractor(BaseModel):
    """What is read of a feature extractor's configuration; what is not there has the default of transformers."""

    feature_extractor_type: str = _EXTRACTOR
    feature_size: _Count | None = None
    sampling_rate: _Count = _RATE
    hop_length: _Count = 160
    chunk_length: _Count | None = None
    n_fft: _Samples = 400
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
    path, config = _extractor(checkpoint, _Extractor, _EXTRACTOR)
    _agree(path, "feature_size", config.feature_size, "num_mel_bins", mels)
    seconds = frames * config.hop_length / config.sampling_rate
    if config.chunk_length is not None and config.chunk_length * config.sampling_rate != frames * config.hop_length:
        raise RequestError(
            f"{path.name} has a chunk_length of {config.chunk_length} s, and max_source_positions {frames // 2} of "
            f"config.json is {seconds:g} s",
            where=str(path),
            fix=_OTHER,
        )
    return _log_mel(config, mels, frames)


class _Chunked(_Extractor):
    """What is read of the extractor of Qwen3-ASR."""

    feature_extractor_type: str = _CHUNKED
    n_window: _Count | None = None


def chunked_log_mel_of(checkpoint: Checkpoint, mels: int, half: int) -> LogMelRecord:
    """The same of an encoder that reads whole chunks, for sounds of `chunk_length`, or of half a minute.

    Args:
        checkpoint: the folder.
        mels: see `log_mel_of`.
        half: frames of half a chunk, as config.json says.

    Raises:
        RequestError: see `log_mel_of`; a window that is no whole number of chunks.
    """
    path, config = _extractor(checkpoint, _Chunked, _CHUNKED)
    _agree(path, "feature_size", config.feature_size, "num_mel_bins", mels)
    _agree(path, "n_window", config.n_window, "n_window", half)
    seconds = config.chunk_length or _WINDOW
    frames, left = divmod(seconds * config.sampling_rate, config.hop_length)
    if left or frames % (2 * half):
        raise RequestError(
            f"{path.name} has a chunk_length of {seconds} s, and {2 * half} frames of {config.hop_length} samples are "
            "what the encoder reads at a time",
            where=str(path),
            fix=_OTHER,
        )
    return _log_mel(config, mels, frames)


class _MelSpec(BaseModel):
    """What the extractor of Granite writes and does not read."""

    sample_rate: _Count = _RATE
    n_fft: _Samples = 512
    win_length: _Count = 400
    hop_length: _Count = 160
    n_mels: _Count = 80


class _Granite(BaseModel):
    """What is read of the extractor of Granite-Speech."""

    feature_extractor_type: str = _GRANITE
    feature_size: _Count | None = None
    n_mels: _Count = 80
    sampling_rate: _Count = _RATE
    n_fft: _Samples = 512
    win_length: _Count = 400
    hop_length: _Count = 160
    padding_value: FiniteFloat = 0.0
    dither: FiniteFloat = 0.0
    projector_window_size: _Count = 15
    projector_downsample_rate: _Count = 5
    melspec_kwargs: _MelSpec | None = None


def granite_log_mel_of(checkpoint: Checkpoint, width: int, window: int, downsample: int) -> LogMelRecord:
    """The same of Granite-Speech, for sounds of half a minute: filters of HTK, and two frames are one place.

    Args:
        checkpoint: the folder.
        width: of the encoder's input, twice the filters, as config.json says.
        window: places that the projector reads at a time.
        downsample: places of them that become one token.

    Raises:
        RequestError: see `log_mel_of`.
    """
    path, config = _extractor(checkpoint, _Granite, _GRANITE)
    mels = config.feature_size or config.n_mels
    _agree(path, "a spectrogram whose places have the width", 2 * mels, "input_dim", width)
    _agree(path, "projector_window_size", config.projector_window_size, "window_size", window)
    _agree(path, "projector_downsample_rate", config.projector_downsample_rate, "downsample_rate", downsample)
    read = _MelSpec(
        sample_rate=config.sampling_rate,
        n_fft=config.n_fft,
        win_length=config.win_length,
        hop_length=config.hop_length,
        n_mels=mels,
    )
    if config.melspec_kwargs not in (None, read):
        raise RequestError(
            f"{path.name} has melspec_kwargs of other values than those beside it, which alone transformers reads",
            where=str(path),
            fix="Copy or download this file again.",
        )
    frames = _WINDOW * config.sampling_rate // config.hop_length
    record = _log_mel(config, mels, frames - frames % 2)
    return LogMelRecord(**{**record.model_dump(), "window": config.win_length, "scale": "htk"})


_Read = TypeVar("_Read", _Extractor, _Chunked, _Granite)


def _extractor(checkpoint: Checkpoint, model: type[_Read], kind: str) -> tuple[Path, _Read]:
    """Where the configuration of the feature extractor stands, and what it says that a `LogMelRecord` can express."""
    path, found = checkpoint.optional("preprocessor_config.json", "processor_config.json")
    part = next((found[name] for name in ("feature_extractor", "audio_processor") if name in found), found)
    config: _Read = typed(model, part, path)
    _only(config, path, feature_extractor_type=kind, sampling_rate=_RATE, padding_value=0.0, dither=0.0)
    return path, config


def _agree(path: Path, name: str, value: int | None, other: str, own: int) -> None:
    if value not in (None, own):
        raise RequestError(
            f"{path.name} has {name} {value}, and config.json {other} {own}", where=str(path), fix=_OTHER
        )


def _log_mel(config: _Extractor | _Granite, mels: int, frames: int) -> LogMelRecord:
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
            taken = "input_values" if _OF_WAVEFORMS in supported.values() else "input_features"
            raise RequestError(
                f"{path.name} has {name} {value}, and only {one} is supported",
                where=str(path),
                fix=f"Give the encoder as package.module:callable, and make its {taken} yourself.",
            )
