"""Speaks digit strings with espeak-ng: the seed decides on text, voice, speed and noise.

The same seed and the same version of espeak-ng produce the same samples. Voices are an accent and a timbre ("variant"
in espeak-ng). The voices held out of training have accents and timbres that no voice of training has.
"""

from __future__ import annotations

import io
import subprocess
import wave
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ....errors import MissingError
from ....runtimes.bundle.manifest import LogMelRecord
from .text import DIGITS

SOUND = LogMelRecord(kind="log_mel", sample_rate=16000, n_fft=400, hop=160, mels=80, frames=400)
HOP = 2 * SOUND.hop  # samples from one token to the next: the encoder's second convolution has stride 2
TOKENS = SOUND.frames // 2

ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-029")
TIMBRES = (
    *("m1", "m2", "m3", "m5", "m6", "m7", "m8", "Andy", "Denis", "Lee", "Michael", "adam"),
    *("f1", "f2", "f3", "f5", "Alicia", "Annie", "belinda", "linda", "steph"),
)
HELD_OUT_ACCENTS = ("en-gb-x-gbcwmd", "en-us-nyc")
HELD_OUT_TIMBRES = ("m4", "Alex", "max", "f4", "Andrea", "aunty")

VOICES = tuple(f"{accent}+{timbre}" for accent in ACCENTS for timbre in TIMBRES)
HELD_OUT_VOICES = tuple(f"{accent}+{timbre}" for accent in HELD_OUT_ACCENTS for timbre in HELD_OUT_TIMBRES)

_SHORTEST, _LONGEST = 3, 7
_WORDS_PER_MINUTE = (105, 215)
_ROOM = SOUND.samples - 2 * SOUND.hop
_EDGE = 6400  # samples: 0.4 s
_SILENT = 1e-3  # of full scale; espeak-ng ends every utterance with a stretch of zeros
_QUIET = 1e-3  # of the loudest token, as power: 30 dB below it a token holds no speech


@dataclass(frozen=True)
class Speech:
    """One clean utterance without the silence around it.

    Attributes:
        waveform: float32 [samples] at 16 kHz.
        text: digit words.
        voice: as espeak-ng is asked for it.
    """

    waveform: NDArray[np.float32]
    text: str
    voice: str


@dataclass(frozen=True)
class Utterance:
    """One input of the recogniser, with its truth.

    Attributes:
        waveform: float32 [64000], four seconds at 16 kHz.
        content: bool [200], the tokens that hold speech.
        text: digit words.
        voice: as espeak-ng is asked for it.
    """

    waveform: NDArray[np.float32]
    content: NDArray[np.bool_]
    text: str
    voice: str


def utterance(stream: int, index: int, voices: tuple[str, ...] = VOICES) -> Utterance:
    """The utterance number `index` of a stream.

    Raises:
        MissingError: espeak-ng or soxr is not installed.
    """
    rng = np.random.default_rng([stream, index])
    return place(speak(rng, voices), rng)


def speak(rng: np.random.Generator, voices: tuple[str, ...] = VOICES) -> Speech:
    """Draw three to seven digits and a voice, and have it speak them.

    Raises:
        MissingError: espeak-ng or soxr is not installed.
    """
    words = [DIGITS[digit] for digit in rng.integers(10, size=rng.integers(_SHORTEST, _LONGEST + 1))]
    voice = voices[rng.integers(len(voices))]
    speed, pitch = int(rng.integers(*_WORDS_PER_MINUTE)), int(rng.integers(30, 71))
    # Half of the speakers pause now and then, as in a telephone number.
    pauses = rng.random(len(words) - 1) < rng.choice([0.0, 0.3])
    said = words[0] + "".join((", " if pause else " ") + word for word, pause in zip(words[1:], pauses, strict=True))
    while len(waveform := _espeak(said, voice, speed, pitch)) > _ROOM:
        speed += speed // 4
    return Speech(waveform, " ".join(words), voice)


def place(speech: Speech, rng: np.random.Generator) -> Utterance:
    """Put clean speech into the window, at any level, and add noise 15 to 75 dB below it.

    Half of the windows are cut from a longer recording: speech anywhere, noise throughout. The others are a short file:
    it begins and ends at most 0.4 s around the speech, and what follows is the zeros that `input_features` adds.
    """
    spoken, room = len(speech.waveform), SOUND.samples - len(speech.waveform)
    if rng.random() < 0.5:
        offset, ends = rng.integers(room + 1), SOUND.samples
    else:
        offset = rng.integers(min(_EDGE, room) + 1)
        ends = min(int(offset + spoken + rng.integers(_EDGE + 1)), SOUND.samples)
    clean = np.zeros(SOUND.samples, np.float32)
    clean[offset : offset + spoken] = speech.waveform
    power = _token_power(clean)
    content = power > _QUIET * power.max()
    level = float(np.sqrt(np.mean(speech.waveform**2)))
    noise = _noise(rng, len(clean)) * np.float32(level * 10 ** (-rng.uniform(15, 75) / 20))
    noise[ends:] = 0
    gain = np.float32(10 ** (-rng.uniform(1, 25) / 20) / max(np.abs(clean + noise).max(), 1e-6))
    return Utterance((clean + noise) * gain, content, speech.text, speech.voice)


def _token_power(clean: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean power of the samples around the centre of each token: [samples] -> [tokens]."""
    centred = np.pad(clean, (HOP // 2, 0))[: len(clean)]
    return (centred.reshape(TOKENS, HOP) ** 2).mean(1)


def _noise(rng: np.random.Generator, length: int) -> NDArray[np.float32]:
    """Noise of power 1 whose spectrum falls off between not at all (white) and as 1/f^2 (brown)."""
    spectrum = np.fft.rfft(rng.standard_normal(length))
    spectrum *= np.maximum(np.arange(len(spectrum)), 50.0) ** -rng.uniform(0, 1)
    noise = np.fft.irfft(spectrum, length)
    return (noise / noise.std()).astype(np.float32)


def _espeak(text: str, voice: str, speed: int, pitch: int) -> NDArray[np.float32]:
    """Speak at 16 kHz, with the silence at both ends removed."""
    command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdout", text]
    try:
        spoken = subprocess.run(command, capture_output=True, check=True)
    except FileNotFoundError:
        raise MissingError(
            "espeak-ng, which speaks the utterances of tiny-asr, is not installed", fix="apt-get install espeak-ng"
        ) from None
    except subprocess.CalledProcessError as error:
        raise MissingError(
            f"espeak-ng cannot speak as {voice}: {error.stderr.decode(errors='replace').strip()}",
            fix="Install the voices that come with it: apt-get install espeak-ng-data",
        ) from None
    try:
        import soxr
    except ImportError:
        raise MissingError("resampling needs soxr", fix='pip install "tokexport[audio]"') from None
    with wave.open(io.BytesIO(spoken.stdout)) as file:
        rate = file.getframerate()
        samples = np.frombuffer(file.readframes(len(spoken.stdout)), "<i2").astype(np.float32) / np.float32(32768)
    resampled: NDArray[np.float32] = soxr.resample(samples, rate, SOUND.sample_rate)
    loud = np.flatnonzero(np.abs(resampled) > _SILENT)
    return resampled[loud[0] : loud[-1] + 1]
