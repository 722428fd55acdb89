"""Videos whose frames have words between them, of InternVL, SmolVLM2 and Qwen3-VL folders: prompts and answers of
transformers, each frame compressed by itself, what is refused.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace
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
transformers = pytest.importorskip("transformers")

QUESTION = "What is in w17 w18 ?"
FRAMES, FPS = 6, 0.5
# Kind -> the model, tokens of a frame, or of two, and the id of their place.
MADE: dict[str, Any] = {
    "internvl": (partial(tiny_checkpoints.internvl, loud=True), 16, 95),
    "smolvlm": (partial(tiny_checkpoints.smolvlm, loud=True), 16, 95),
    "Qwen3VL": (lambda folder: tiny_qwen_vl.qwen_vl(folder, "Qwen3VL"), 36, tiny_qwen_vl.IDS[tiny_qwen_vl.VIDEO]),
}
END = {"internvl": 2, "smolvlm": 2, "Qwen3VL": tiny_qwen_vl.IDS[tiny_qwen_vl.END]}


def command(*arguments: object, code: int = 0) -> str:
    """What the command prints on stdout, or of a failure on stderr."""
    result = CliRunner().invoke(main, [str(one) for one in arguments])
    assert result.exit_code == code, result.output
    return result.stdout if not code else " ".join(result.stderr.split())


def drawn(number: int, frames: int = FRAMES) -> np.ndarray:
    """A video of a few large squares that change, of which none is like another."""
    few = np.random.default_rng(number).integers(0, 255, (frames, 4, 4, 3), dtype=np.uint8)
    return np.ascontiguousarray(few.repeat(24, 1).repeat(24, 2))


def written(kind: str, tokens: int) -> str:
    """What the processor of the model makes of a video of six frames, one every two seconds."""
    from transformers.models.smolvlm import processing_smolvlm

    times = transformers.video_utils.VideoMetadata(FRAMES, FPS, duration=FRAMES / FPS, frames_indices=[*range(FRAMES)])
    if kind == "internvl":
        own = {"start_image_token": "<img>", "image_token": "<IMG_CONTEXT>", "end_image_token": "</img>"}
        given = {"pixel_values_videos": [np.zeros(FRAMES)]}
        asked = SimpleNamespace(**own, image_seq_length=tokens)
        return transformers.InternVLProcessor.replace_video_token(asked, given, 0)
    if kind == "smolvlm":
        marks = {"image_token": "<image>", "fake_image_token": "<fake_token_around_image>"}
        asked = SimpleNamespace(**marks, global_image_token="<global-img>", image_seq_len=tokens)
        given = {"pixel_values": np.zeros((1, FRAMES)), "video_metadata": [times]}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(processing_smolvlm, "num2words", {FRAMES: "six"}.get)
            return transformers.SmolVLMProcessor.replace_video_token(asked, given, 0)
    from transformers import Qwen3VLProcessor

    sizes = SimpleNamespace(merge_size=2, temporal_patch_size=2)
    marks = {"vision_start_token": "<|vision_start|>", "vision_end_token": "<|vision_end|>", "video_processor": sizes}
    asked = SimpleNamespace(**marks, video_token=tiny_qwen_vl.VIDEO)
    asked._calculate_timestamps = lambda *given: Qwen3VLProcessor._calculate_timestamps(asked, *given)
    given = {"video_grid_thw": torch.tensor([[FRAMES // 2, 12, 12]]), "video_metadata": [times]}
    return Qwen3VLProcessor.replace_video_token(asked, given, 0)


def asked_of(kind: str, tokens: int) -> str:
    """The whole prompt, as the processor of the model writes it."""
    turn = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": QUESTION}]}]
    from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE
    from transformers.utils.chat_template_utils import render_jinja_template

    template = {"smolvlm": DEFAULT_CHAT_TEMPLATE, "Qwen3VL": tiny_qwen_vl.CHAT}.get(kind, tiny_checkpoints.CHAT)
    text = render_jinja_template([turn], chat_template=template, add_generation_prompt=True)[0][0]
    mark = tiny_qwen_vl.VIDEO if kind == "Qwen3VL" else "<video>"
    assert text.count(mark) == 1
    return text.replace(mark, written(kind, tokens))


def pixels_for(kind: str, pixels: Any, whole: Any) -> dict[str, Any]:
    """What the model takes of frames [6, 3, H, W], and of the ids around them."""
    if kind == "internvl":
        return {"pixel_values": pixels}
    if kind == "smolvlm":
        return {"pixel_values": pixels[None]}
    parts = pixels.reshape(3, 2, 3, 6, 2, 8, 6, 2, 8).permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
    given = {"pixel_values_videos": parts.reshape(3 * 144, -1), "video_grid_thw": torch.tensor([[3, 12, 12]])}
    return {**given, "mm_token_type_ids": 2 * (whole == MADE[kind][2]).int()}


@pytest.fixture(
    scope="module",
    params=["internvl", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("smolvlm", "Qwen3VL"))],
)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = MADE[request.param][0](tmp_path_factory.mktemp("checkpoints") / request.param)
    return folder


@pytest.fixture(scope="module")
def bundle(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Proved, of a quarter of the tokens of each frame, and of all."""
    out, tokens = tmp_path_factory.mktemp("bundles") / "b", MADE[folder.name][1]
    asked = ("--frames", FRAMES, "--fps", FPS, "--method", "kcenter_merge", "--keep", tokens // 4, "--keep", tokens)
    command("model", folder, *asked, "--prompt-length", 96, "--answer-length", 16, "-o", out)
    return out


@pytest.mark.parametrize("kind", MADE)
def test_what_is_between_the_frames_is_what_the_processor_writes(kind):
    from tokexport.exporter.families.between_frames import counted, timed
    from tokexport.exporter.families.smolvlm_video import clocked

    tokens, count = MADE[kind][1], FRAMES // 2 if kind == "Qwen3VL" else FRAMES
    write, before, place, behind = {
        "internvl": (counted, "<img>", "<IMG_CONTEXT>", "</img>"),
        "smolvlm": (
            clocked(FPS),
            "<fake_token_around_image><global-img>",
            "<image>",
            "<fake_token_around_image>",
        ),
        "Qwen3VL": (timed(FPS, 2), "<|vision_start|>", tiny_qwen_vl.VIDEO, "<|vision_end|>"),
    }[kind]
    # The tokenizers of the tiny folders know none of these words.
    assert write(before + place * tokens + behind, count) == written(kind, tokens)


def test_without_compression_it_answers_as_transformers_does(folder, bundle):
    from tokexport.runtimes.media.video import clip_values

    kind, (_, tokens, place) = folder.name, MADE[folder.name]
    session = tokexport.load(bundle, variant=f"kcenter_merge-keep{tokens}")
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    whole = tokenizer(asked_of(kind, tokens), return_tensors="pt")["input_ids"]
    pieces = FRAMES // 2 if kind == "Qwen3VL" else FRAMES
    assert (whole == place).sum() == pieces * tokens
    ids = session.ids(QUESTION, pieces)
    assert [i for one in ids for i in [one] * (tokens if one == place else 1)] == whole[0].tolist()
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    pixels = torch.from_numpy(clip_values(drawn(2), session.preprocess)[0])
    said = model.generate(
        input_ids=whole,
        attention_mask=torch.ones_like(whole),
        **pixels_for(kind, pixels, whole),
        max_new_tokens=16,
        do_sample=False,
        eos_token_id=END[kind],
    )[0, whole.shape[1] :].tolist()
    assert len(set(said)) > 3
    assert session.generate(drawn(2), QUESTION).ids == [i for i in said if i != END[kind]]
    assert session.generate(drawn(2)[::-1], QUESTION).ids != [i for i in said if i != END[kind]]


def test_each_frame_is_compressed_by_itself_and_the_manifest_says_so(folder, bundle):
    tokens, pieces = MADE[folder.name][1], FRAMES // 2 if folder.name == "Qwen3VL" else FRAMES
    manifest = json.loads((bundle / "manifest.json").read_text())
    variant = manifest["variants"][0]
    assert (manifest["schema"], manifest["preprocess"]["kind"], manifest["preprocess"]["frames"]) == (
        "2.3",
        "video",
        FRAMES,
    )
    assert variant["generation"]["images"] == pieces and variant["generation"]["image_span"][1] == tokens // 4
    assert all(check["ok"] for check in manifest["parity"]["checks"])
    assert any(check["part"] == "generation" for check in manifest["parity"]["checks"])
    session = tokexport.load(bundle)
    encoded = session.encode(drawn(0))
    assert encoded["tokens"].shape[1] == encoded["kept_indices"].shape[1] == pieces * tokens // 4
    assert (encoded["kept_indices"][0] // tokens == np.arange(pieces).repeat(tokens // 4)).all()
    assert encoded["assignment"].shape == (1, pieces * tokens) and encoded["sizes"].sum() == pieces * tokens
    answer = session.generate(drawn(0), QUESTION)
    assert (answer.kept_indices + np.arange(pieces).repeat(tokens // 4) * tokens == encoded["kept_indices"]).all()


def test_the_command_asks_about_a_file_and_draws_it(folder, bundle, tmp_path):
    first, *others = (Image.fromarray(frame) for frame in drawn(0, 2 * FRAMES))
    first.save(tmp_path / "clip.png", save_all=True, append_images=others)
    said = json.loads(command("run", bundle, "--video", tmp_path / "clip.png", "--prompt", QUESTION, "--json"))
    assert said == tokexport.load(bundle).generate(drawn(0, 2 * FRAMES)[1::2], QUESTION).to_json()
    command("show", bundle, "--video", tmp_path / "clip.png", "-o", tmp_path / "kept.svg")
    pieces = FRAMES // 2 if folder.name == "Qwen3VL" else FRAMES
    assert f">{pieces * MADE[folder.name][1]} tokens<" in (tmp_path / "kept.svg").read_text()
    refused = command("run", bundle, "--image", tmp_path / "clip.png", "--prompt", QUESTION, code=2)
    assert "the model takes videos, not images" in refused
    with pytest.raises(RequestError, match="2 videos are given, and the bundle takes one"):
        tokexport.load(bundle).generate([drawn(0), drawn(1)], QUESTION)


def test_numbers_in_words():
    from tokexport.exporter.families.smolvlm_video import in_words

    assert [in_words(n) for n in (1, 9, 10, 19, 20, 21, 64)] == [
        "one", "nine", "ten", "nineteen", "twenty", "twenty-one", "sixty-four",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "frames", "says"),
    [
        ("internvl", 1, "--frames 1: that is a picture to this model"),
        ("internvl", 65, "--frames 65: a prompt has at most 64"),
        ("Qwen3VL", 2, "--frames 2: that is a picture to this model"),
        ("Qwen3VL", 5, "--frames 5: a token of this model is of 2 frames"),
    ],
)
def test_frames_that_are_no_video_are_refused(tmp_path, kind, frames, says):
    with pytest.raises(RequestError, match=says):
        open_source(str(MADE[kind][0](tmp_path / kind)), clip=Clip(frames))


def test_a_prompt_that_does_not_hold_the_words_between_frames_is_refused(tmp_path):
    folder = tiny_checkpoints.smolvlm(tmp_path / "smolvlm")
    with pytest.raises(RequestError, match=r"about 32 frames is \d+ ids .*--prompt-length"):
        open_source(str(folder), parts="all", clip=Clip(32))
    with pytest.raises(RequestError, match="--frames is about checkpoints that are read here with videos"):
        open_source(str(tiny_checkpoints.smolvlm(tmp_path / "idefics3", kind="idefics3")), clip=Clip(4))
