"""Human speech from the packages: single utterances, and windows that speech fills.

python speech.py FOLDER        writes each clip as NAME.wav, 16 kHz, and NAME.txt where its words are known
"""

from __future__ import annotations

import io
import sys
import tarfile
import wave
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from packages import fetched

RATE = 16_000
FULL = 28 * RATE  # samples of a window that speech fills: Whisper's are 30 s


@dataclass(frozen=True)
class Clip:
    """One recording.

    Attributes:
        name: unique.
        sound: [samples] float32 at 16 kHz, within -1 and 1.
        text: what is said, or nothing where no package says it.
        full: whether speech fills a window of 30 s.
    """

    name: str
    sound: np.ndarray
    text: str = ""
    full: bool = False


def clips() -> list[Clip]:
    """Five read sentences with their words, other utterances, and windows cut or put together of them."""
    single: list[Clip] = []
    with tarfile.open(fetched("pocketsphinx==5.1.1")) as archive:
        files = {Path(m.name).name: m for m in archive.getmembers() if "/test/data/" in m.name and m.isfile()}

        def read(name: str) -> bytes:
            file = archive.extractfile(files[name])
            assert file is not None
            return file.read()

        for name in sorted(files):
            if name.startswith("sense_and") and name.endswith(".wav"):
                words = read(f"{name[:-4]}.txt").decode().strip()
                single.append(Clip(f"austen-{name[-8:-4]}", _wave(read(name)), words))
        for name in ("input_2_16k.wav", "input_4_16k.wav"):
            single.append(Clip(f"forever-{name[6]}", _wave(read(name))))
        for name in ("goforward.raw", "numbers.raw", "something.raw"):
            single.append(Clip(name[:-4], np.frombuffer(read(name), "<i2").astype(np.float32) / 32768))
    with zipfile.ZipFile(fetched("moonshine-voice==0.1.5")) as wheel:
        long = {name: _wave(wheel.read(f"moonshine_voice/assets/{name}.wav")) for name in ("beckett", "two_cities")}
        long["endgame"] = _wave(wheel.read("moonshine_voice/assets/endgame_nagg_nell.wav"))
    single.append(Clip("beckett", long.pop("beckett")))
    windows = [
        Clip(f"{name}-{number}", part, full=True)
        for name, sound in long.items()
        for number, part in enumerate(_cut(sound))
        if len(part) > FULL // 2
    ]
    austen = single[:5]
    for turn in range(5):
        order = austen[turn:] + austen[:turn]
        sound = np.concatenate([clip.sound for clip in order])
        while len(sound) > FULL:
            order = order[:-1]
            sound = np.concatenate([clip.sound for clip in order])
        windows.append(Clip(f"austen-from-{turn}", sound, " ".join(clip.text for clip in order), full=True))
    return single + windows


def _wave(content: bytes) -> np.ndarray:
    """The first channel of a 16-bit WAV file at 16 kHz."""
    with wave.open(io.BytesIO(content)) as file:
        rate, channels = file.getframerate(), file.getnchannels()
        sound = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32)[::channels] / 32768
    if rate == RATE:
        return sound
    # Band-limited: the spectrum is cut at the lower of the two Nyquist frequencies.
    samples = round(len(sound) * RATE / rate)
    spectrum = np.fft.rfft(sound)
    kept = np.zeros(samples // 2 + 1, complex)
    least = min(len(kept), len(spectrum))
    kept[:least] = spectrum[:least]
    return (np.fft.irfft(kept, samples) * samples / len(sound)).astype(np.float32)


def pieces(spoken: list[Clip], seconds: int) -> list[Clip]:
    """Clips of at most so many seconds: windows that speech fills, cut where it pauses, without those put together."""
    long = [clip for clip in spoken if clip.full and not clip.text]
    cut = {clip.name: _cut(clip.sound, seconds * RATE, seconds * RATE // 2) for clip in long}
    numbered = [(f"{name}-{at}", part) for name, parts in cut.items() for at, part in enumerate(parts)]
    return [Clip(name, part) for name, part in numbered if len(part) > RATE]


def _cut(sound: np.ndarray, most: int = FULL, last: int = 8 * RATE) -> list[np.ndarray]:
    """Parts of at most `most` samples, cut where the `last` samples of them are most silent."""
    parts = []
    while len(sound) > most:
        frames = np.abs(sound[most - last : most]).reshape(-1, RATE // 10).mean(1)
        at = most - last + int(frames.argmin()) * (RATE // 10) + RATE // 20
        parts.append(sound[:at])
        sound = sound[at:]
    return [*parts, sound]


if __name__ == "__main__":
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    for clip in clips():
        with wave.open(str(out / f"{clip.name}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE)
            file.writeframes((clip.sound.clip(-1, 1) * 32767).astype("<i2").tobytes())
        if clip.text:
            (out / f"{clip.name}.txt").write_text(f"{clip.text}\n")
