"""LLaVA-NeXT and LLaVA-OneVision folders whole: pixels, tokens and answers of transformers, shapes of pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_checkpoints
import tiny_tiles
import tokexport
from click.testing import CliRunner
from PIL import Image
from tokexport.errors import RequestError
from tokexport.exporter.cli import main
from tokexport.exporter.opening import open_source
from tokexport.runtimes.media.image import pixel_values

pytest.importorskip("transformers")

QUESTION = "What is in w17 w18 ?"
TOKENS = {"llava_next": 16 + 8 * 9, "llava_onevision": 16 + 4 * 5}


@pytest.fixture(scope="module", params=["llava_next", pytest.param("llava_onevision", marks=pytest.mark.slow)])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return getattr(tiny_tiles, request.param)(tmp_path_factory.mktemp("checkpoints") / request.param)


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    import torch
    import transformers

    return transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)


def asked(folder: Path, picture: np.ndarray) -> Any:
    """What the processor of the model makes of a picture and a question."""
    import transformers
    from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
    from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    text = f"USER: <image>\n{QUESTION} ASSISTANT:"
    if folder.name == "llava_next":
        images = LlavaNextImageProcessorPil.from_pretrained(folder)
        said = {"patch_size": 6, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
        return transformers.LlavaNextProcessor(images, tokenizer, **said)(picture, text, return_tensors="pt")
    # Without torchvision no processor of this model can be made, for its videos alone.
    processor = object.__new__(transformers.LlavaOnevisionProcessor)
    processor.image_processor = LlavaOnevisionImageProcessorPil.from_pretrained(folder)
    processor.num_image_tokens, processor.vision_aspect_ratio = 16, "anyres_max_1"
    count = processor._get_number_of_features(*picture.shape[:2], 24, 24)
    ids = tokenizer(text.replace("<image>", "<image>" * count), return_tensors="pt")
    return {**ids, **processor.image_processor(picture, return_tensors="pt")}


def drawn(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def exported(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tokexport.Exported:
    keep, lengths = [TOKENS[folder.name], 9], {"prompt_length": 24, "answer_length": 16}
    out = tmp_path_factory.mktemp("bundles") / folder.name
    return tokexport.export(str(folder), out, method="kcenter_merge", keep=keep, **lengths)


def test_all_parts_and_the_answers_are_proved(exported):
    checks = {check["part"]: check for check in exported.proof["checks"]}
    assert {"compressor", "embed", "prefill", "decode", "generation"} <= checks.keys()
    assert all(check["ok"] for check in checks.values()) and "tokens of 3 answers" in checks["generation"]["detail"]
    assert exported.compression[0]["seam"]["kind"] == "projector_output" and exported.compression[0]["size_bias"]


@pytest.mark.parametrize("number", range(2))
def test_without_compression_it_answers_as_transformers_does(folder, model, exported, number):
    picture = drawn(60, 60, number)
    given = asked(folder, picture)
    length = given["input_ids"].shape[1]
    said = model.generate(**given, max_new_tokens=16, do_sample=False)[0, length:].tolist()
    assert len(set(said)) > 1
    assert tokexport.load(exported.bundle).generate(picture, QUESTION).ids == [i for i in said if i != 2]


@pytest.mark.parametrize(
    ("size", "grid"), [((48, 48), (2, 2)), ((30, 48), (2, 2)), ((17, 60), (1, 3)), ((61, 20), (3, 1))]
)
def test_pictures_of_other_shapes_are_cut_and_packed_as_in_transformers(folder, model, size, grid):
    import torch

    source = open_source(str(folder), image_size=size)
    assert source.shape.grid == grid
    # Twice as large, but of the same shape.
    picture = drawn(2 * size[0], 2 * size[1])
    given = asked(folder, picture)
    pixels = pixel_values(Image.fromarray(picture), source.preprocess)
    assert np.abs(pixels - given["pixel_values"].numpy()).max() <= 1e-6
    with torch.no_grad():
        wanted = model.model.get_image_features(given["pixel_values"], given["image_sizes"]).pooler_output[0]
        found = source.encoder.module(torch.from_numpy(pixels))[0]
    assert len(wanted) == source.tokens == (given["input_ids"] == 95).sum() and wanted.std(0).min() > 0.01
    assert torch.allclose(found, wanted, atol=1e-5)


def test_the_whole_picture_and_tiles_of_it_prove_a_graph(folder):
    """Tiles show the picture again, four times as large: their means are those of its quarters."""
    source = open_source(str(folder))
    (views,) = source.real_inputs(1)[0]["pixel_values"]
    assert views.shape == (5, 3, 24, 24)
    quarters = views[0].reshape(3, 2, 12, 2, 12).mean((2, 4)).transpose(1, 2, 0).reshape(4, 3)
    assert np.abs(quarters - views[1:].mean((2, 3))).max() < 0.1 < np.ptp(quarters, axis=0).max()


def test_onevision_shrinks_no_picture_of_few_tiles(tmp_path):
    folder = tiny_tiles.llava_onevision(tmp_path / "folder", ratio="anyres_max_4")
    assert open_source(str(folder)).tokens == 16 + 8 * 9


def command(folder: Path, tmp_path: Path, *arguments: str) -> Any:
    given = ("--method", "uniform", "--keep", "9", "--parts", "encoder", "-o", str(tmp_path / "b"))
    return CliRunner().invoke(main, ["model", str(folder), *given, *arguments])


def test_a_shape_is_asked_for_by_the_command(tmp_path):
    folder = tiny_tiles.llava_next(tmp_path / "folder")
    assert command(folder, tmp_path, "--image-size", "17x60").exit_code == 0
    bundle = tokexport.load(tmp_path / "b")
    assert bundle.preprocess.tiles.grid == (1, 3) and bundle.preprocess.tiles.fitted == (21, 72)
    assert bundle.encode(drawn(17, 60))["tokens"].shape == (1, 9, 32)
    assert "--image-size 17x60" in (tmp_path / "b" / "report.html").read_text()


@pytest.mark.parametrize("size", ["17", "0x60", "17x60x3", "99999x1"])
def test_what_is_no_size_is_refused(folder, tmp_path, size):
    result = command(folder, tmp_path, "--image-size", size)
    assert result.exit_code == 2 and "HEIGHTxWIDTH" in result.stderr


def test_a_model_of_one_size_takes_no_other(tmp_path):
    result = command(tiny_checkpoints.llava(tmp_path / "folder"), tmp_path, "--image-size", "48x48")
    assert result.exit_code == 2 and "--image-size is about checkpoints" in result.stderr


def test_in_front_of_the_packing_no_token_may_go(folder, tmp_path):
    result = command(folder, tmp_path, "--seam", "encoder_output")
    assert "puts the tokens of its tiles together" in " ".join(result.stderr.split())
    assert result.exit_code == 2 and not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("name", "change", "why"),
    [
        ("preprocessor_config", {"image_grid_pinpoints": [[24, 48]]}, "cuts other tiles than the model reads"),
        ("config", {"vision_feature_select_strategy": "other"}, "vision_feature_select_strategy"),
        ("config", {"image_grid_pinpoints": [[24, 48, 3]]}, "image_grid_pinpoints"),
    ],
)
def test_folders_whose_files_contradict_each_other_are_refused(tmp_path, name, change, why):
    path = tiny_tiles.llava_next(tmp_path / "folder") / f"{name}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(RequestError, match=why):
        open_source(str(path.parent))


def test_a_strategy_that_leaves_no_square_is_refused(tmp_path):
    folder = tiny_tiles.llava_next(tmp_path / "folder", vision_feature_select_strategy="full")
    with pytest.raises(RequestError, match="leaves no square of tokens"):
        open_source(str(folder))
