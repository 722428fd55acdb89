"""A few committed utterances, so that a proof, a demo and the tests need no espeak-ng.

`python -m tokexport.exporter.zoo.tiny_asr.clips` writes them again: clips/<number>.wav (16 kHz, 16 bit, one channel)
and clips/clips.json with their texts and voices. The last two voices are held out of training.
"""

from __future__ import annotations

import json
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .speech import HELD_OUT_VOICES, SOUND, VOICES, speak

FOLDER = Path(__file__).with_name("clips")
_INDEX = "clips.json"
_STREAM = 0xC11B
_VOICES = (VOICES,) * 4 + (HELD_OUT_VOICES,) * 2
_MARGIN = 3200  # samples of silence at both ends: 0.2 s
_LOUDEST = 0.5
_NOISE = 1e-3


@dataclass(frozen=True)
class Clip:
    """One recording.

    Attributes:
        path: the WAV file.
        text: digit words.
        voice: of espeak-ng.
    """

    path: Path
    text: str
    voice: str

    def waveform(self) -> NDArray[np.float32]:
        """float32 [samples] at 16 kHz."""
        with wave.open(str(self.path)) as file:
            return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / np.float32(32768)


def clips() -> list[Clip]:
    """All clips, in the order of their numbers."""
    return [Clip(FOLDER / name, **said) for name, said in json.loads((FOLDER / _INDEX).read_text()).items()]


def main() -> None:
    """Speak them and write them."""
    FOLDER.mkdir(exist_ok=True)
    index = {}
    for number, voices in enumerate(_VOICES):
        rng = np.random.default_rng([_STREAM, number])
        speech = speak(rng, voices)
        loud = np.pad(speech.waveform / np.abs(speech.waveform).max() * _LOUDEST, _MARGIN)
        samples = np.round((loud + _NOISE * rng.standard_normal(len(loud))) * 32767).astype("<i2")
        name = f"{number}.wav"
        with wave.open(str(FOLDER / name), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(SOUND.sample_rate)
            file.writeframes(samples.tobytes())
        index[name] = {"text": speech.text, "voice": speech.voice}
    (FOLDER / _INDEX).write_text(json.dumps(index, indent=1) + "\n")


if __name__ == "__main__":
    main()
