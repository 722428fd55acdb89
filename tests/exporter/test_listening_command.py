"""`tokexport model tiny-asr` and `tokexport run --audio`: proved and heard without espeak-ng, from committed clips."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from tokexport.exporter.cli import main
from tokexport.exporter.zoo.tiny_asr.clips import clips

soundfile = pytest.importorskip("soundfile")
TOKEXPORT = Path(sys.executable).with_name("tokexport")
CLIPS = clips()


def tokexport(*arguments: object, folder: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """As on a machine without espeak-ng."""
    command = [TOKEXPORT, *map(str, arguments)]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, env={**os.environ, "PATH": ""}
    )
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    rates = ("--ratio", "0.85", "--ratio", "0.5")
    done = tokexport("model", "tiny-asr", "--method", "kcenter_merge", *rates, "--json", folder=folder)
    (folder / "said.json").write_text(done.stdout)
    return folder


@pytest.fixture(scope="module")
def bundle(made: Path) -> Path:
    return made / "tiny-asr-kcenter_merge-0.85-0.5"


def test_every_part_is_proved_and_what_could_not_be_measured_is_said(made: Path) -> None:
    said = json.loads((made / "said.json").read_text())
    checks = said["proof"]["checks"]
    assert {check["part"] for check in checks} == {"head", "compressor", "prefill", "decode"}
    assert {"cross_key_0", "cross_value_1"} <= {check["tensor"] for check in checks if check["part"] == "prefill"}
    assert all(check["ok"] for check in checks)
    assert said["compression"][0]["tokens_out"] == 30 and said["compression"][0]["size_bias"]
    assert said["accuracy"] is None
    assert any("accuracy was not measured" in note and "apt-get install espeak-ng" in note for note in said["notes"])


def test_a_gate_on_accuracy_without_espeak_stops_before_the_work(tmp_path: Path) -> None:
    arguments = ("model", "tiny-asr", "--method", "uniform", "--keep", "30", "--min-accuracy", "0.9")
    assert "apt-get install espeak-ng" in tokexport(*arguments, folder=tmp_path, code=3).stderr
    assert not list(tmp_path.iterdir())


def test_verify_proves_both_rates_again(bundle: Path) -> None:
    result = json.loads(tokexport("verify", bundle, "--json", folder=bundle).stdout)
    assert result["ok"]
    for one in (result, *result["further"]):
        assert {check["part"] for check in one["checks"]} >= {"compressor", "prefill", "decode"}
    assert [one["variant"] for one in result["further"]] == ["kcenter_merge-0.5"]


def test_both_rates_read_the_same_weights(bundle: Path) -> None:
    def places(file: str) -> set[tuple[str, int, int]]:
        model = onnx.load(bundle / file, load_external_data=False)
        outside = [{one.key: one.value for one in value.external_data} for value in model.graph.initializer]
        return {(one["location"], int(one["offset"]), int(one["length"])) for one in outside if one}

    first, other = ("encoder", "prefill", "decode"), ("encoder.{}", "prefill.{}", "decode.{}")
    mine, its = (
        set().union(*(places(f"{file.format('kcenter_merge-0.5')}.onnx") for file in files)) for files in (first, other)
    )
    assert mine == its and {location for location, _, _ in mine} == {"encoder.onnx.data", "language.onnx.data"}
    for data in ("encoder.onnx.data", "language.onnx.data"):
        end = max(offset + length for location, offset, length in mine if location == data)
        assert (bundle / data).stat().st_size == end


def test_the_other_rate_runs_by_its_name(bundle: Path) -> None:
    named = ("--variant", "kcenter_merge-0.5", "--audio", CLIPS[0].path)
    answer = json.loads(tokexport("run", bundle, *named, "--json", folder=bundle).stdout)
    assert answer["text"] == CLIPS[0].text and len(answer["kept_indices"]) == 100


@pytest.mark.parametrize("clip", [CLIPS[0], CLIPS[5]], ids=["voice of training", "voice held out"])
def test_run_writes_down_the_digits(bundle: Path, clip) -> None:
    assert tokexport("run", bundle, "--audio", clip.path, folder=bundle).stdout.strip() == clip.text


def test_another_rate_and_two_channels_say_the_same(bundle: Path, tmp_path: Path) -> None:
    import soxr

    sound = soxr.resample(CLIPS[0].waveform(), 16000, 44100)
    soundfile.write(tmp_path / "a.flac", np.stack([sound, sound], 1), 44100)
    done = tokexport("run", bundle, "--audio", "a.flac", "--json", folder=tmp_path)
    answer = json.loads(done.stdout)
    assert answer["text"] == CLIPS[0].text
    assert len(answer["kept_indices"]) == 30 and sum(answer["sizes"]) == 200


def test_a_prompt_is_what_the_transcript_begins_with(bundle: Path) -> None:
    first, *others = CLIPS[0].text.split()
    done = tokexport("run", bundle, "--audio", CLIPS[0].path, "--prompt", first, folder=bundle)
    assert done.stdout.split() == others


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--image", "x.png", "--prompt", "a"], "the model takes sound, not images"),
        ([], "none of --image, --video, --audio is given"),
        (["--image", "x.png", "--audio", "x.wav"], "--image and --audio are given"),
        (["--audio", "nope.wav"], "no sound file nope.wav"),
        (["--audio", CLIPS[0].path, "--prompt", "eleven"], "does not know the word 'eleven'"),
        (["--audio", "long.wav"], "lasts 4.50 s, and the encoder takes at most 4 s"),
        (["--audio", "text.wav"], "cannot be read as sound"),
    ],
)
def test_wrong_requests_get_one_paragraph(bundle: Path, tmp_path: Path, arguments: list[str], says: str) -> None:
    soundfile.write(tmp_path / "long.wav", np.zeros(72000), 16000)
    (tmp_path / "text.wav").write_text("three one four")
    error = tokexport("run", bundle, *arguments, folder=tmp_path, code=2).stderr
    assert says in error and error.count("\n") == 1


@pytest.mark.slow
def test_fp16_is_typed_and_proved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ("model", "tiny-asr", "--method", "apet", "--keep", "50", "--precision", "fp16", "-o", "b", "--json")
    done = CliRunner().invoke(main, [*arguments])
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    assert all(check["ok"] for check in data["proof"]["checks"])
    half = onnx.TensorProto.FLOAT16
    prefill, decode = (
        onnx.load(tmp_path / "b" / f"{role}.onnx", load_external_data=False) for role in ("prefill", "decode")
    )
    handed = [value for value in (*prefill.graph.output, *decode.graph.input) if "_key_" in value.name]
    assert len(handed) == 8 and {value.type.tensor_type.elem_type for value in handed} == {half}
    heard = tokexport("run", "b", "--audio", CLIPS[2].path, folder=tmp_path).stdout.strip()
    assert heard == CLIPS[2].text
