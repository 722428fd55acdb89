"""Several images in a prompt: where their tokens stand, the answers of transformers, and what is refused."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_audio
import tiny_checkpoints
import tiny_hybrids
import tiny_qwen_vl
import tiny_tiles
import tokexport
from click.testing import CliRunner
from PIL import Image
from tokexport.errors import RequestError
from tokexport.exporter.cli import main
from tokexport.exporter.opening import open_source

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

QUESTION = "What is in w17 w18 ?"
IMAGE = 95
LENGTHS = {"prompt_length": 32, "answer_length": 16}


def command(*arguments: object, code: int = 0) -> str:
    """What the command prints on stdout, or of a failure on stderr."""
    result = CliRunner().invoke(main, [str(one) for one in arguments])
    assert result.exit_code == code, result.output
    return result.stdout if not code else " ".join(result.stderr.split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoints.whole_llava(tmp_path_factory.mktemp("checkpoints") / "tiny-llava")


@pytest.fixture(scope="module")
def bundle(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a LLaVA for up to two images of 36 tokens, of which none is removed."""
    out = tmp_path_factory.mktemp("bundles") / "b"
    asked = ("--method", "kcenter_merge", "--keep", 36, "--images", 2, "--prompt-length", 32, "--answer-length", 16)
    command("model", folder, *asked, "--no-verify", "-o", out)
    return out


def pictures(n: int) -> list[np.ndarray]:
    """Of a few large squares, which differ more than noise does."""
    few = [np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8) for seed in range(n)]
    return [np.ascontiguousarray(one.repeat(21, 0).repeat(21, 1)) for one in few]


def by_transformers(folder: Path, pixels: np.ndarray, ids: list[int], tokens: int, limit: int) -> list[int]:
    """What the model of a folder says to images [n, 3, H, W], whose places in `ids` are one id each."""
    from transformers import AutoModelForImageTextToText

    whole = torch.tensor([[i for word in ids for i in [word] * (tokens if word == IMAGE else 1)]])
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    said = model.generate(
        input_ids=whole,
        pixel_values=torch.from_numpy(pixels),
        attention_mask=torch.ones_like(whole),
        max_new_tokens=limit,
        do_sample=False,
    )
    return said[0, whole.shape[1] :].tolist()


def test_every_token_and_every_word_is_in_its_place():
    """Of three images of two tokens, the third of which is not there."""
    from tokexport.exporter.decoders.several import Places

    places = Places.of(torch.tensor([[1, 4, 99]]), 2, 12)
    words, images = torch.arange(5)[None], torch.tensor([[10, 11, 20, 21, 30, 31]])
    assert places.woven(words, images)[0, :9].tolist() == [0, 10, 11, 1, 20, 21, 2, 3, 4]
    # Each image had five tokens, of which those at 1 and 3 are left.
    of_tokens = torch.tensor([[[1, 3, 1, 3, 0, 0]]])
    assert places.positions(of_tokens, 5)[0, 0, :9].tolist() == [0, 2, 4, 6, 8, 10, 12, 13, 14]
    same = places.same_image()[0, 0]
    assert same.sum() == 8 and same[1, 2] and same[5, 4] and not same[2, 4] and not same[0, 0] and not same[3, 3]


@pytest.mark.slow
def test_rows_and_columns_of_several_images_are_those_of_transformers(tmp_path):
    from tokexport.exporter.decoders.several import Places
    from transformers import Qwen2VLModel

    source: Any = open_source(str(tiny_qwen_vl.qwen_vl(tmp_path / "Qwen2VL")))
    kinds = torch.tensor([[0, 0, *[1] * 36, 0, *[1] * 36, 0, 0, 0]])
    model = Qwen2VLModel.__new__(Qwen2VLModel)
    torch.nn.Module.__init__(model)
    model.config = source.config
    wanted, _ = model.get_rope_index(torch.zeros_like(kinds), kinds, image_grid_thw=torch.tensor([[1, 12, 12]] * 2))
    own = source.positions()
    places = Places.of(torch.tensor([[2, 39]]), 36, kinds.shape[1])
    assert torch.equal(places.positions(own.rows.repeat(1, 2)[:, None], own.advance), wanted)


def test_without_compression_two_images_are_answered_as_transformers_answers(folder, bundle):
    session = tokexport.load(bundle)
    first, second = pictures(2)
    read = np.concatenate([session_pixels(session, one) for one in (first, second)])
    ids = session.ids(QUESTION, 2)
    assert ids.count(IMAGE) == 2 and session.ids(QUESTION).count(IMAGE) == 1
    said = by_transformers(folder, read, ids, 36, 16)
    assert session.generate([first, second], QUESTION).ids == [i for i in said if i != 2]
    # One image, of a bundle for two.
    alone = by_transformers(folder, read[:1], session.ids(QUESTION), 36, 16)
    assert session.generate(first, QUESTION).ids == [i for i in alone if i != 2] != [i for i in said if i != 2]


def session_pixels(session: Any, picture: np.ndarray) -> np.ndarray:
    from tokexport.runtimes.media.image import pixel_values

    return pixel_values(Image.fromarray(picture), session.preprocess)


def test_the_manifest_has_room_for_both_images(bundle):
    manifest = json.loads((bundle / "manifest.json").read_text())
    generation = manifest["variants"][0]["generation"]
    assert manifest["schema"] == "2.3" and (generation["images"], generation["placeholder"]) == (2, IMAGE)
    assert generation["kv_capacity"] == [32 + 2 * 36 + 16] * 2
    assert generation["prompt"]["several"] == [generation["prompt"]["before"] + "<image>\n"]


def test_the_command_takes_images_in_their_order(bundle, tmp_path):
    session, files = tokexport.load(bundle), []
    for number, picture in enumerate(pictures(3)):
        files += ["--image", tmp_path / f"{number}.png"]
        Image.fromarray(picture).save(files[-1])
    run = ("run", bundle, "--prompt", QUESTION, "--json")
    said = json.loads(command(*run, *files[:4]))
    assert said == session.generate(pictures(2), QUESTION).to_json() and len(said["sizes"]) == 72
    assert said["ids"] != session.generate(pictures(2)[::-1], QUESTION).ids
    refused = command(*run, *files, code=2)
    assert "3 images are given, and the bundle takes at most 2" in refused and "--images 3" in refused
    assert "nowhere.png" in command(*run, *files[:2], "--image", tmp_path / "nowhere.png", code=2)


def test_ids_say_where_each_image_stands(bundle):
    session, (first, second) = tokexport.load(bundle), pictures(2)
    asked = session.ids(QUESTION, 2)
    assert session.generate([first, second], asked).ids == session.generate([first, second], QUESTION).ids
    between = [1, IMAGE, 20, 21, IMAGE, 22]
    assert session.generate([first, second], between).ids != session.generate([first, second], asked).ids
    with pytest.raises(RequestError, match=r"1 places of images \(id 95\), and the images are 2"):
        session.generate([first, second], [1, IMAGE, 20])


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--images", "0"), "--images 0 is no whole number from 1 to 64"),
        (("--images", "65"), "--images 65 is no whole number from 1 to 64"),
        (("--images", "2", "--parts", "encoder"), "--images are about the language graphs"),
    ],
)
def test_a_number_of_images_that_cannot_be_is_refused(folder, tmp_path, arguments, why):
    asked = ("model", folder, "--method", "topk", "--keep", 9, "-o", tmp_path / "b", *arguments)
    assert why in command(*asked, code=2) and not (tmp_path / "b").exists()


def test_a_built_in_model_takes_one_picture():
    said = command("model", "tiny-vlm", "--method", "topk", "--keep", 9, "--images", 2, code=2)
    assert "tiny-vlm gives none of them: its questions are about one picture" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "why"),
    [
        (tiny_checkpoints.paligemma, "this model sees a prompt whole"),
        (tiny_tiles.llava_onevision, "this model reads no tiles of several pictures"),
        (tiny_audio.qwen2_audio, "it hears sounds"),
    ],
)
def test_a_family_that_takes_one_says_why(tmp_path, make, why):
    folder = make(tmp_path / "folder") or tmp_path / "folder"
    said = command("model", folder, "--method", "topk", "--keep", 4, "--images", 2, "-o", tmp_path / "b", code=2)
    assert f"--images 2 cannot be had of folder: {why}" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "images"),
    [
        (partial(tiny_qwen_vl.qwen_vl, kind="Qwen2VL"), 3),
        (partial(tiny_qwen_vl.qwen_vl, kind="Qwen2_5_VL"), 2),
        (partial(tiny_qwen_vl.qwen_vl, kind="Qwen3VL"), 2),
        (partial(tiny_qwen_vl.qwen_vl, kind="Qwen3_5"), 2),
        (tiny_checkpoints.smolvlm, 2),
        (partial(tiny_checkpoints.smolvlm, kind="idefics3"), 2),
        (tiny_checkpoints.internvl, 2),
        (tiny_checkpoints.gemma3, 3),
        (tiny_hybrids.lfm2_vl, 2),
        (tiny_tiles.pixtral, 2),
        (tiny_tiles.llava_next, 2),
        (tiny_checkpoints.whole_llava, 4),
        (partial(tiny_checkpoints.whole_llava, tower="siglip"), 2),
    ],
)
def test_other_families_answer_as_transformers_does(tmp_path, make, images):
    folder = tmp_path / "folder"
    make(folder)
    result = tokexport.export(
        str(folder), tmp_path / "b", method="kcenter_merge", keep=5, images=images, **{**LENGTHS, "prompt_length": 64}
    )
    (check,) = [one for one in result.proof["checks"] if one["part"] == "generation"]
    assert check["ok"] and "tokens of 3 answers compared" in check["detail"]


@pytest.mark.slow
def test_two_images_of_qwen_are_answered_as_transformers_answers(tmp_path):
    """From pictures to words, with its own rows and columns."""
    import transformers
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    folder, place = tiny_qwen_vl.qwen_vl(tmp_path / "folder"), tiny_qwen_vl.IDS[tiny_qwen_vl.IMAGE]
    tokexport.export(
        str(folder),
        tmp_path / "b",
        method="uniform",
        keep=36,
        images=2,
        prompt_length=40,
        answer_length=16,
        verify=False,
    )
    two = [np.random.default_rng(seed).integers(0, 256, (96, 96, 3), dtype=np.uint8) for seed in range(2)]
    given = Qwen2VLImageProcessorPil.from_pretrained(folder)(two, return_tensors="pt")
    session = tokexport.load(tmp_path / "b")
    whole = torch.tensor([[i for word in session.ids(QUESTION, 2) for i in [word] * (36 if word == place else 1)]])
    model = transformers.Qwen2VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    said = model.generate(
        input_ids=whole,
        attention_mask=torch.ones_like(whole),
        mm_token_type_ids=(whole == place).int(),
        **given,
        max_new_tokens=16,
        do_sample=False,
        eos_token_id=tiny_qwen_vl.IDS[tiny_qwen_vl.END],
    )[0, whole.shape[1] :].tolist()
    end = tiny_qwen_vl.IDS[tiny_qwen_vl.END]
    assert len(set(said)) > 3 and session.generate(two, QUESTION).ids == [i for i in said if i != end]


@pytest.mark.slow
@pytest.mark.parametrize("more", [{"llm_weights": "int8"}, {"precision": "fp16"}, {"precision": "bf16"}])
def test_other_types_take_several_images(folder, tmp_path, more):
    result = tokexport.export(str(folder), tmp_path / "b", method="kcenter_merge", keep=9, images=2, **LENGTHS, **more)
    assert all(check["ok"] for check in result.proof["checks"])
    if more != {"precision": "bf16"}:
        assert tokexport.load(tmp_path / "b").generate(pictures(2), QUESTION).ids


@pytest.mark.slow
def test_without_a_template_prompts_hold_the_places(folder, tmp_path):
    mute = shutil.copytree(folder, tmp_path / "mute")
    path = mute / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": None}))
    result = tokexport.export(str(mute), tmp_path / "b", method="kcenter_merge", keep=9, images=2, **LENGTHS)
    (check,) = [one for one in result.proof["checks"] if one["part"] == "generation"]
    assert check["ok"] and tokexport.load(tmp_path / "b").generate(pictures(2), [1, IMAGE, 5, IMAGE, 6]).ids
