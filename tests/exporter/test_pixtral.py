"""Mistral 3 and Pixtral folders whole: pixels, tokens with the ends of their rows, and answers of transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_tiles
import tokexport
from PIL import Image
from tokexport.errors import RequestError
from tokexport.exporter.opening import open_source
from tokexport.runtimes.media.image import pixel_values

pytest.importorskip("transformers")

QUESTION = "What is in w17 w18 ?"
# Rows and columns of a picture of 36 x 48 pixels.
ROWS = {"mistral3": (3, 4), "llava": (6, 8)}
SIZE, IMAGE, BREAK, END = (36, 48), 95, 11, 12


@pytest.fixture(scope="module", params=["mistral3", pytest.param("llava", marks=pytest.mark.slow)])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_tiles.pixtral(tmp_path_factory.mktemp("checkpoints") / request.param, request.param)


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    import torch
    import transformers

    return transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)


def drawn(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def asked(folder: Path, picture: np.ndarray) -> dict[str, Any]:
    """What the processor of the model makes of a picture and a question."""
    import transformers
    from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

    token = 48 // ROWS[folder.name][1]
    images = PixtralImageProcessorPil.from_pretrained(folder, patch_size={"height": token, "width": token})
    given = images(picture, return_tensors="pt")
    # As its processor does, which cannot be imported without torchvision.
    height, width = given["image_sizes"][0]
    rows = ["[IMG]" * (width // token)] * (height // token)
    tokens = "[IMG_BREAK]".join(rows) + "[IMG_END]"
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    return {**tokenizer(f"USER: {tokens}\n{QUESTION} ASSISTANT:", return_tensors="pt"), **given}


@pytest.fixture(scope="module")
def exported(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tokexport.Exported:
    out = tmp_path_factory.mktemp("bundles") / folder.name
    rows, columns = ROWS[folder.name]
    lengths = {"prompt_length": 24, "answer_length": 16, "image_size": SIZE}
    keep = [rows * (columns + 1) - 1, 6]
    return tokexport.export(str(folder), out, method="kcenter_merge", keep=keep, **lengths)


def test_all_parts_and_the_answers_are_proved(exported):
    checks = {check["part"]: check for check in exported.proof["checks"]}
    assert {"compressor", "embed", "prefill", "decode", "generation"} <= checks.keys()
    assert all(check["ok"] for check in checks.values()) and "tokens of 3 answers" in checks["generation"]["detail"]
    assert exported.compression[0]["seam"]["kind"] == "projector_output" and exported.compression[0]["size_bias"]


@pytest.mark.parametrize("number", range(2))
def test_without_compression_it_answers_as_transformers_does(folder, model, exported, number):
    picture = drawn(number)
    given = asked(folder, picture)
    said = model.generate(**given, max_new_tokens=16, do_sample=False)[0, given["input_ids"].shape[1] :].tolist()
    assert len(set(said)) > 1
    assert tokexport.load(exported.bundle).generate(picture, QUESTION).ids == [i for i in said if i != 2]


def test_row_ends_stand_among_the_tokens_and_the_last_in_the_prompt(folder, model):
    import torch

    source = open_source(str(folder), parts="all", image_size=SIZE)
    given, picture = asked(folder, drawn(0)), Image.fromarray(drawn(0))
    pixels = pixel_values(picture, source.preprocess)
    assert np.abs(pixels - given["pixel_values"].numpy()).max() <= 1e-6
    ids = given["input_ids"][0]
    prompt = [i for i in ids.tolist() if i not in (IMAGE, BREAK)]
    assert source.prompts(1)[0][:3] == prompt[:3] == [1, 4, END]
    with torch.no_grad():
        features = model.model.get_image_features(given["pixel_values"], image_sizes=given["image_sizes"])
        words = model.get_input_embeddings()(ids)
        words[ids == IMAGE] = torch.cat(list(features.pooler_output))
        found = source.encoder.module(torch.from_numpy(pixels))[0]
    span = words[source.offset : source.offset + source.tokens]
    assert torch.allclose(found, span, atol=1e-5) and span.std(0).min() > 0.01


def test_in_front_of_the_row_ends_no_token_may_go(folder, tmp_path):
    with pytest.raises(RequestError, match="is not valid: it ends every row of tokens with a word"):
        tokexport.export(str(folder), tmp_path / "b", method="topk", keep=8, seam="encoder_layer:0")


@pytest.mark.parametrize(
    ("asked", "size"), [(None, (96, 96)), ((30, 50), (36, 60)), ((96, 48), (96, 48)), ((192, 80), (96, 48))]
)
def test_sizes_are_what_the_image_processor_makes_of_them(tmp_path, asked, size):
    folder = tiny_tiles.pixtral(tmp_path / "folder")
    source = open_source(str(folder), image_size=asked)
    assert source.image_size == source.preprocess.size == size
    assert source.tokens == size[0] // 12 * (size[1] // 12 + 1) - 1


def refused(folder: Path) -> str:
    with pytest.raises(RequestError) as error:
        open_source(str(folder))
    return str(error.value)


def test_a_folder_that_does_not_say_how_rows_end_is_refused(tmp_path):
    folder = tiny_tiles.pixtral(tmp_path / "folder")
    tokenizer = folder / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace("[IMG_BREAK]", "[OTHER]"))
    assert "knows no [IMG_BREAK]" in refused(folder)
    tokenizer.unlink()
    assert "no file tokenizer.json" in refused(folder)


def test_a_tower_without_a_first_token_keeps_its_first_patch(tmp_path):
    path = tiny_tiles.pixtral(tmp_path / "folder", "llava") / "config.json"
    config = {**json.loads(path.read_text()), "vision_feature_select_strategy": "default"}
    path.write_text(json.dumps(config))
    assert "the first token of this tower is a patch" in refused(path.parent)
