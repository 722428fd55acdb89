"""Videos of Qwen2-VL and Qwen2.5-VL folders whole: the tokens, times and answers of transformers, what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_checkpoints
import tiny_qwen_vl
import tokexport
from click.testing import CliRunner
from PIL import Image
from tokexport.errors import RequestError
from tokexport.exporter.cli import main
from tokexport.exporter.opening import open_source
from tokexport.exporter.sources.clip import Clip

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

QUESTION = "What is in w17 w18 ?"
VIDEO, END = tiny_qwen_vl.IDS[tiny_qwen_vl.VIDEO], tiny_qwen_vl.IDS[tiny_qwen_vl.END]
# Six frames, 3 a second: Qwen2.5-VL counts 4 positions a second, so two frames are 8 / 3 of them.
CLIP = Clip(6, 3.0)


def command(*arguments: object, code: int = 0) -> str:
    """What the command prints on stdout, or of a failure on stderr."""
    result = CliRunner().invoke(main, [str(one) for one in arguments])
    assert result.exit_code == code, result.output
    return result.stdout if not code else " ".join(result.stderr.split())


@pytest.fixture(scope="module", params=["Qwen2_5_VL", pytest.param("Qwen2VL", marks=pytest.mark.slow)])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_qwen_vl.qwen_vl(tmp_path_factory.mktemp("checkpoints") / request.param, request.param)


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    import transformers

    kind = getattr(transformers, f"{folder.name}ForConditionalGeneration")
    return kind.from_pretrained(folder, dtype=torch.float32)


def patches(pixels: Any) -> tuple[Any, Any]:
    """What the video processor of the model makes of frames [6, 3, 96, 96]: a row for each patch, and its grid."""
    parts = pixels.reshape(3, 2, 3, 6, 2, 8, 6, 2, 8).permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
    return parts.reshape(3 * 144, -1), torch.tensor([[3, 12, 12]])


def drawn(number: int, frames: int = 6) -> np.ndarray:
    """A video of a few large squares that change, of which none is like another."""
    few = np.random.default_rng(number).integers(0, 255, (frames, 4, 4, 3), dtype=np.uint8)
    return np.ascontiguousarray(few.repeat(24, 1).repeat(24, 2))


def written(path: Path, video: np.ndarray) -> Path:
    first, *others = (Image.fromarray(frame) for frame in video)
    first.save(path, save_all=True, append_images=others)
    return path


def test_the_encoder_gives_the_tokens_of_transformers(folder, model):
    source = open_source(str(folder), clip=CLIP)
    pixels = torch.from_numpy(source.real_inputs(1)[0]["pixel_values"])
    assert pixels.shape == (1, 6, 3, 96, 96) and source.encoder.grid == (3, 6, 6) and source.takes == "video"
    with torch.no_grad():
        wanted = model.model.get_video_features(*patches(pixels[0])).pooler_output[0]
        found = source.encoder.module(pixels)[0]
    assert wanted.shape == (108, 32) and wanted.std(0).min() > 0.01
    assert torch.allclose(found, wanted, atol=1e-5)


def test_tokens_stand_at_their_time_row_and_column(folder):
    positions = open_source(str(folder), clip=CLIP).positions()
    times = [0, 1, 2] if folder.name == "Qwen2VL" else [0, 2, 5]
    assert positions.rows[0].tolist() == [time for time in times for _ in range(36)]
    assert positions.rows[1:].tolist() == [[i // 6 for i in range(36)] * 3, [i % 6 for i in range(36)] * 3]
    assert positions.advance == 6


@pytest.fixture(scope="module")
def made(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the command says of a quarter of the 108 tokens and of all, which the folder's own model must answer too."""
    out = tmp_path_factory.mktemp("bundles") / "b"
    asked = ("--frames", 6, "--fps", 3, "--method", "tome", "--set", "metric=tokens", "--keep", 27, "--keep", 108)
    lengths = ("--prompt-length", 32, "--answer-length", 20)
    return {**json.loads(command("model", folder, *asked, *lengths, "-o", out, "--json")), "out": out}


@pytest.mark.slow
@pytest.mark.parametrize("number", range(2))
def test_without_compression_it_answers_as_transformers_does(folder, model, made, number):
    import transformers

    session = tokexport.load(made["out"], variant="tome-keep108")
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    turn = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": QUESTION}]}]
    ids = tokenizer(tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))["input_ids"]
    place = ids.index(VIDEO)
    full = torch.tensor([[*ids[:place], *[VIDEO] * 108, *ids[place + 1 :]]])
    from tokexport.runtimes.media.video import clip_values

    rows, grid = patches(torch.from_numpy(clip_values(drawn(number), session.preprocess)[0]))
    seconds = {"second_per_grid_ts": torch.tensor([2 / 3])} if folder.name == "Qwen2_5_VL" else {}
    said = model.generate(
        input_ids=full,
        attention_mask=torch.ones_like(full),
        mm_token_type_ids=2 * (full == VIDEO).int(),
        pixel_values_videos=rows,
        video_grid_thw=grid,
        **seconds,
        max_new_tokens=20,
        do_sample=False,
        eos_token_id=END,
    )[0, full.shape[1] :].tolist()
    assert len(set(said)) > 3
    assert session.variant.generation.image_span == (place, 108)
    assert session.generate(drawn(number), QUESTION).ids == [i for i in said if i != END]


@pytest.mark.slow
def test_all_parts_and_the_answers_are_proved_and_the_manifest_says_what_is_read(made):
    checks = {check["part"]: check for check in made["proof"]["checks"]}
    assert {"compressor", "embed", "prefill", "decode", "generation"} <= checks.keys()
    assert all(check["ok"] for check in checks.values()) and "tokens of 3 answers" in checks["generation"]["detail"]
    manifest = json.loads((made["out"] / "manifest.json").read_text())
    record, seam = manifest["preprocess"], manifest["variants"][0]["compression"][0]["seam"]
    assert (record["kind"], record["frames"], record["frame"]["size"]) == ("video", 6, [96, 96])
    assert (seam["kind"], seam["grid"]) == ("projector_output", [3, 6, 6])
    assert "--frames 6 --fps 3" in (made["out"] / "report.html").read_text()


@pytest.mark.slow
def test_the_command_asks_about_a_file(made, tmp_path):
    video = drawn(0, 12)
    asked = ("run", made["out"], "--prompt", QUESTION, "--json", "--video")
    said = json.loads(command(*asked, written(tmp_path / "clip.png", video)))
    assert said == tokexport.load(made["out"]).generate(video[1::2], QUESTION).to_json()
    assert len(said["kept_indices"]) == 27 and sum(said["sizes"]) == 108
    refused = command(*asked, written(tmp_path / "short.gif", video[:4]), code=2)
    assert "short.gif has 4 frames, and the model reads 6" in refused and "--frames 4" in refused
    assert "the model takes videos, not images" in command(
        "run", made["out"], "--image", "a.png", "--prompt", "a", code=2
    )


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("--frames", 5), "a token of this model is of 2 frames.*--frames 6"),
        (("--frames", 0), "--frames 0 is no whole number from 1 to 1024"),
        (("--fps", 2), "--fps 2.0 is about the frames of a video.*--frames 8"),
        (("--frames", 6, "--fps", 0), "--fps 0.0 is no number of frames a second"),
        (("--frames", 6, "--images", 2), "with --frames it reads videos, of which a prompt has one"),
        (("--frames", 6, "--seam", "encoder_layer:0"), "its layers see the frames of a video two by two"),
    ],
)
def test_what_cannot_be_is_refused(folder, tmp_path, given, says):
    asked = ("model", folder, "--method", "uniform", "--keep", 9, "-o", tmp_path / "b", *given)
    assert re.search(says, command(*asked, code=2)) and not (tmp_path / "b").exists()


@pytest.mark.parametrize("made_of", ["llava", "tiny-video"])
def test_models_that_read_no_such_videos_are_refused(tmp_path, made_of):
    name = made_of if made_of != "llava" else str(tiny_checkpoints.llava(tmp_path / "llava"))
    with pytest.raises(RequestError, match=f"--frames is about .* videos, and {made_of} is none.*Qwen2VLFor"):
        open_source(name, clip=Clip(4))
