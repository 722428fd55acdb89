"""`tokexport model tiny-video` and `tokexport run --video`: proved, measured, asked about an animated picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("torch")

from tokexport.exporter import pipeline
from tokexport.exporter.cli import main
from tokexport.exporter.opening import open_source
from tokexport.exporter.sweeps.study import fitting
from tokexport.exporter.zoo.tiny_video.clips import Clip, Thing, draw


def tokexport(*arguments: object, code: int = 0) -> Any:
    done = CliRunner().invoke(main, [*map(str, arguments), *(["--json"] if code == 0 else [])])
    assert done.exit_code == code, f"{done.output}\n{done.exception!r}"
    return json.loads(done.stdout) if code == 0 else done.stderr


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the export said, measured on few questions; its bundle and a clip lie in `folder`."""
    folder = tmp_path_factory.mktemp("watching")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "QUESTIONS", 64)
        patch.setattr("tokexport.exporter.evaluate.accuracy.SEEDS", 2)
        patch.chdir(folder)
        said = tokexport("model", "tiny-video", "--method", "prunevid", "--ratio", "0.75", "-o", "out")
    (folder / "clip.png").write_bytes(drawn().to_png())
    return {**said, "folder": folder}


def drawn() -> Clip:
    """A red circle goes down, a blue star stays."""
    things = [
        Thing("red", "circle", "move", 10, 12, 5, 1, 4, "down", 24),
        Thing("blue", "star", "stay", 12, 36, 5),
    ]
    return draw(things, np.random.default_rng(1))


def test_every_part_is_proved_and_the_accuracy_is_measured(made: dict[str, Any]) -> None:
    checks = made["proof"]["checks"]
    assert {check["part"] for check in checks} == {"head", "compressor", "embed", "prefill", "decode"}
    assert all(check["ok"] for check in checks)
    (record,) = made["compression"]
    assert (record["tokens_in"], record["tokens_out"], record["seam"]["grid"]) == (288, 72, [8, 6, 6])
    assert made["accuracy"]["uncompressed"] > 0.65 and made["accuracy"]["compressed"] > 0.4


def test_the_manifest_says_how_a_video_is_read_and_the_report_shows_its_frames(made: dict[str, Any]) -> None:
    out = made["folder"] / "out"
    record = json.loads((out / "manifest.json").read_text())["preprocess"]
    assert (record["kind"], record["frames"], record["frame"]["size"]) == ("video", 8, [48, 48])
    page = (out / "report.html").read_text()
    assert "The frames are side by side" in page and 'viewBox="0 0 1920 240"' in page
    assert "8x6x6" in page and "--video clip.gif" in page and "frame 8, row 6" in page


def test_a_clip_is_answered_from_a_file_and_from_a_folder(made: dict[str, Any], tmp_path: Path) -> None:
    shown, out = drawn(), made["folder"] / "out"
    for number, frame in enumerate(shown.to_pil()):
        frame.save(tmp_path / f"{number}.png")
    asked = ("--prompt", "how many objects moved ?")
    answers = [tokexport("run", out, "--video", video, *asked) for video in (made["folder"] / "clip.png", tmp_path)]
    assert answers[0] == answers[1] and answers[0]["text"] == "one"
    assert len(answers[0]["kept_indices"]) == 72 and sum(answers[0]["sizes"]) == 288


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--image", "clip.png", "--prompt", "a"], "the model takes videos, not images"),
        (["--audio", "clip.png"], "the model takes videos, not sound"),
        (["--video", "clip.png", "--image", "clip.png"], "--image and --video are given"),
        (["--video", "clip.png", "--video", "other.png"], "--video was given 2 times"),
        (["--video", "clip.png"], "the prompt is empty"),
        (["--video", "nope.gif", "--prompt", "how many objects moved ?"], "no video nope.gif"),
        (["--video", "out/manifest.json", "--prompt", "how many objects moved ?"], "an animated GIF, WebP or PNG"),
        (["--video", "clip.png", "--prompt", "how many cats moved ?"], "does not know the word 'cats'"),
    ],
)
def test_wrong_requests_get_one_paragraph(
    made: dict[str, Any], monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str
) -> None:
    monkeypatch.chdir(made["folder"])
    error = tokexport("run", "out", *arguments, code=2)
    assert says in error and error.count("\n") == 1


def test_a_frame_of_its_own_is_no_place_to_select(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ("--method", "tome", "--ratio", "0.5", "--seam", "encoder_output", "--parts", "encoder")
    error = tokexport("model", "tiny-video", *arguments, code=2)
    assert "Seams where it is: projector_input, projector_output" in error and not list(tmp_path.iterdir())


def test_a_sweep_takes_the_methods_for_videos_and_those_for_everything() -> None:
    known = fitting(open_source("tiny-video"), asks=False)
    assert {"evs", "holitom", "temporal_pool", "kcenter_merge", "divprune"} <= set(known)
    assert not {"visionzip", "pixel_unshuffle", "a_tome", "pool1d", "random"} & set(known)
    assert {"evs", "prunevid"}.isdisjoint(fitting(open_source("tiny-vlm"), asks=False))
