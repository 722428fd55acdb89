"""The windows of a bundle: encoders for sounds of different length, and which of them reads a sound."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import BundleError
from .bundle.manifest import Manifest, Variant
from .bundle.media_records import LogMelRecord, WaveformRecord

# A recogniser was trained on windows that end in silence, and hears by it that nothing follows. Measured on trained
# Whisper models: from 10 s on a shorter window changes hardly a word, where it is cut to the length of a short clip and
# a second the model repeats itself without end.
SHORTEST_SECONDS = 10.0
SILENCE_SECONDS = 1.0


@dataclass(frozen=True)
class Window:
    """An encoder of a bundle.

    Attributes:
        variant: its name.
        record: how a sound becomes its input.
        room: the longest sound, in samples, that it reads well.
        safe: whether it is taken without being named.
    """

    variant: str
    record: LogMelRecord | WaveformRecord
    room: int
    safe: bool


def windows(manifest: Manifest, variant: Variant) -> list[Window]:
    """The windows with the compression of `variant`, its own among them; the shortest first.

    Raises:
        BundleError: the bundle does not say how a sound becomes the encoder's input.
    """
    found = {each.name: _record(manifest, each) for each in manifest.variants if _alike(each, variant)}
    # The model's own window: it was trained on speech that fills it.
    records = (*found.values(), manifest.preprocess)
    whole = max(record.samples for record in records if isinstance(record, (LogMelRecord, WaveformRecord)))
    made = [_window(name, record, whole) for name, record in found.items()]
    return sorted(made, key=lambda window: (window.record.samples, window.variant != variant.name))


def shortest(windows: list[Window], samples: int) -> Window:
    """The shortest of these that reads a sound of so many samples well, or the longest."""
    safe = [window for window in windows if window.safe] or windows[-1:]
    return next((window for window in safe if window.room >= samples), safe[-1])


def _window(name: str, record: LogMelRecord | WaveformRecord, whole: int) -> Window:
    if record.samples == whole:
        return Window(name, record, whole, safe=True)
    silence = round(SILENCE_SECONDS * record.sample_rate)
    safe = record.samples >= SHORTEST_SECONDS * record.sample_rate
    return Window(name, record, max(record.samples - silence, record.samples // 2), safe)


def _record(manifest: Manifest, variant: Variant) -> LogMelRecord | WaveformRecord:
    record = manifest.preprocess_of(variant)
    if not isinstance(record, (LogMelRecord, WaveformRecord)):
        raise BundleError(
            f"the bundle has a record of speech, and none of how a sound becomes the input of {variant.name}",
            fix="Export the bundle again.",
        )
    return record


def _alike(one: Variant, other: Variant) -> bool:
    """Whether two variants compress by the same methods, to the same ratio or the same number of tokens."""
    if not one.generation or len(one.compression) != len(other.compression):
        return False
    return all(
        (a.method, a.params, a.size_bias, a.seam.kind) == (b.method, b.params, b.size_bias, b.seam.kind)
        and (a.ratio == b.ratio or a.tokens_out == b.tokens_out)
        for a, b in zip(one.compression, other.compression)
    )
