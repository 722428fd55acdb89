"""`tokexport run --audio` of a recogniser made by hand: language, task, times, long sounds, notes on stderr."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_bundle
import toy_speech
from click.testing import CliRunner, Result
from tokexport.exporter.cli import main
from toy_speech import RATE, said

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("soxr")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundles and sounds."""
    made = tmp_path_factory.mktemp("speech")
    toy_speech.write(made / "speech", (30, 10))
    toy_bundle.write(made / "picture")
    sounds = {
        "short": said((5, 0.3)),
        "long": said((25, 0.7), (1, 0), (25, 0.4), (1, 0), (3, 0.8)),
        "lost": said((5, 0.9)),
        "silent": np.zeros(5 * RATE),
    }
    for name, sound in sounds.items():
        soundfile.write(made / f"{name}.wav", sound, RATE)
    return made


def run(folder: Path, *arguments: str, code: int = 0) -> Result:
    options = [str(folder / one) if one in ("speech", "picture") or "." in one else one for one in arguments]
    done = CliRunner().invoke(main, ["run", *options])
    assert done.exit_code == code, done.output
    return done


def test_a_sound_is_written_down_in_one_line(folder: Path) -> None:
    done = run(folder, "speech", "--audio", "short.wav", "--language", "en", "--task", "translate")
    assert (done.stdout, done.stderr) == ("three\n", "")


def test_times_are_a_line_each_and_a_long_sound_tells_how_far_it_is(folder: Path) -> None:
    done = run(folder, "speech", "--audio", "long.wav", "--timestamps", "--language", "en")
    first, second = done.stdout.splitlines()
    assert first == "[0.00 - 2.00] seven"
    assert second.startswith("[25.") and second.endswith(" - 55.00] eight")
    assert done.stderr.splitlines()[-1] == "[55/55] heard until 55.0 s"
    quiet = run(folder, "speech", "--audio", "long.wav", "-q")
    assert (quiet.stdout, quiet.stderr) == ("seven eight\n", "")


def test_json_has_all(folder: Path) -> None:
    data: dict[str, Any] = json.loads(
        run(folder, "speech", "--audio", "long.wav", "--timestamps", "--json", "-q").stdout
    )
    assert data["text"] == "seven eight" and data["language"] == "de"
    assert [segment["text"] for segment in data["segments"]] == ["seven", "eight"]
    assert [piece["variant"] for piece in data["pieces"]] == ["toy-30s", "toy-30s"]
    assert sum(piece["slots"] for piece in data["pieces"]) == len(data["sizes"]) == 2


@pytest.mark.parametrize(
    ("sound", "notes"),
    [
        ("lost", ["the limit of 6 tokens cut the transcript off", "the transcript repeats itself"]),
        ("silent", ["the sound is silent between 0:00.0 and 0:05.0"]),
    ],
)
def test_what_is_doubtful_is_said_on_stderr_and_in_json(folder: Path, sound: str, notes: list[str]) -> None:
    done = run(folder, "speech", "--audio", f"{sound}.wav", "--language", "en")
    lines = done.stderr.splitlines()
    assert len(lines) == len(notes) and all(f"note: {note}" in line for note, line in zip(notes, lines))
    said_so = json.loads(run(folder, "speech", "--audio", f"{sound}.wav", "--json").stdout)
    assert said_so.get("finished", True) is (sound != "lost")
    assert all(note in one for note, one in zip(notes, said_so["notes"]))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["speech", "--audio", "short.wav", "--language", "german"], "lacks the language 'german'"),
        (["speech", "--audio", "short.wav", "--task", "sing"], "lacks the task 'sing'"),
        (["speech", "--audio", "nowhere.wav"], "no sound file"),
        (["speech", "--audio", "short.wav", "--timestamps", "--prompt", "one"], "begins with given words has no times"),
        (["speech", "--image", "x.png", "--prompt", "a"], "the model takes sound, not images"),
        (["picture", "--image", "x.png", "--prompt", "a", "--language", "en"], "language is for recognisers of speech"),
        (["picture", "--image", "x.png", "--prompt", "a", "--timestamps"], "timestamps is for recognisers of speech"),
    ],
)
def test_what_the_model_lacks_is_one_paragraph(folder: Path, arguments: list[str], says: str) -> None:
    error = run(folder, *arguments, code=2).stderr
    assert says in error and error.count("\n") == 1


def test_the_cure_of_a_language_works(folder: Path) -> None:
    error = run(folder, "speech", "--audio", "short.wav", "--language", "german", code=2).stderr
    cure = error.split("Did you mean ")[1].split("?")[0]
    assert run(folder, "speech", "--audio", "short.wav", "--language", cure).stdout == "three\n"
