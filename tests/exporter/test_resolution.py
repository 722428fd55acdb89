"""Smaller pictures as a baseline: which grid, where its tokens stand, and the same model on fewer pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_qwen_vl
import tiny_towers

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
import transformers
from tokexport.exporter.evaluate import resolution
from tokexport.exporter.evaluate.question_set import QuestionSet
from tokexport.exporter.opening import open_source
from tokexport.exporter.sources.source import Source
from tokexport.graph_passes.compressors import Case, make
from tokexport.graph_passes.seams.seam import Seam


@pytest.fixture(scope="module")
def tiny() -> Source:
    return open_source("tiny-vlm", parts="all")


def seam(grid: tuple[int, ...]) -> Seam:
    return Seam("s", "t", int(np.prod(grid)), 8, "float32", 1, 0, grid)


@pytest.mark.parametrize(
    ("grid", "keep", "first"),
    [
        ((12, 12), 144, (12, 12)),
        ((12, 12), 36, (6, 6)),
        ((12, 12), 35, (5, 5)),
        ((4, 6), 11, (2, 3)),  # 3 x 4 of 2.67 x 4 are one too many
        ((6, 4), 12, (4, 3)),
        ((2, 24), 5, (1, 5)),
    ],
)
def test_the_largest_grid_of_at_most_k_tokens_with_the_shape_of_the_whole(grid, keep, first):
    assert next(resolution.grids(grid, keep)) == first


def test_every_token_stands_in_the_middle_of_what_it_shows():
    kept, slots = resolution.places((4, 6), (2, 2))
    # Of two rows the upper, of three columns the second.
    assert kept.tolist() == [1, 4, 13, 16]
    assert slots.tolist() == [0, 0, 0, 1, 1, 1] * 2 + [2, 2, 2, 3, 3, 3] * 2


def test_they_stand_where_pool_has_its_own():
    wanted = make("pool").reference(Case(144, 4, 16, grid=(12, 12)), torch.randn(1, 144, 4))
    kept, slots = resolution.places((12, 12), (4, 4))
    assert kept.tolist() == wanted.kept_indices[0].tolist() and slots.tolist() == wanted.assignment[0].tolist()


def test_where_there_is_none_it_is_said_why(tiny, tmp_path):
    assert resolution.smaller_encoder(open_source("tiny-video"), seam((8, 6, 6)), 72) == (
        None,
        "its tokens are not the grid of a picture",
    )
    fixed = open_source(str(tiny_towers.tower(tmp_path / "siglip2", "Siglip2VisionModel")))
    assert resolution.smaller_encoder(fixed, seam((6, 6)), 9) == (None, "its encoder takes pictures of one size")
    # Behind a pixel shuffle the tokens of a seam are others than those of the encoder.
    assert resolution.smaller_encoder(tiny, seam((6, 6)), 9)[0] is None


def test_tiny_vlm_reads_smaller_pictures_by_interpolated_positions_and_the_same_weights(tiny):
    made = tiny.smaller_encoder((6, 6)).module
    table = tiny.model.vision.positions[0, 1:].unflatten(0, (12, 12))
    torch.testing.assert_close(made.vision.positions[0, 8], table[2:4, 2:4].mean((0, 1)))
    assert torch.equal(made.vision.positions[0, 0], tiny.model.vision.positions[0, 0])
    assert made.vision.patch_embed.weight is tiny.model.vision.patch_embed.weight
    picture = torch.from_numpy(tiny.real_inputs(1)[0]["pixel_values"])
    with torch.inference_mode():
        assert made(picture[..., :48, :48]).shape == (1, 36, 96)
        torch.testing.assert_close(tiny.smaller_encoder((12, 12)).module(picture), tiny.encoder.module(picture))


def test_pictures_are_made_smaller_and_not_cut(tiny):
    asked = tiny.questions(4, 0)
    question_set = QuestionSet.of_questions(tiny, None, asked)
    # Of one colour each: a smaller picture is the same colour, whatever the size.
    question_set.inputs = [np.full((1, 3, 96, 96), value, np.float32) for value in (-0.5, 0.5)]
    encoder = tiny.smaller_encoder((4, 4))
    encoded = resolution.encode(question_set, encoder)
    with torch.inference_mode():
        wanted = [encoder.module(torch.full((1, 3, 32, 32), value)).numpy() for value in (-0.5, 0.5)]
    np.testing.assert_allclose(encoded.tokens, np.concatenate(wanted), atol=1e-4)
    assert encoded.of.tolist() == [0, 0, 1, 1] and (encoded.sizes == 1).all() and encoded.answer is None
    assert encoded.kept_indices[1].tolist() == resolution.places((12, 12), (4, 4))[0].tolist()


def test_a_smaller_picture_is_as_bright_in_each_half():
    picture = torch.cat([torch.zeros(1, 1, 8, 16), torch.ones(1, 1, 8, 16)], 2)
    found = resolution.resized(picture, (4, 4))
    halves = [float(half.mean()) for half in found.split(2, 2)]
    assert found.shape == (1, 1, 4, 4) and halves == pytest.approx([0, 1], abs=0.05)
    assert resolution.resized(picture, (16, 16)) is picture


@pytest.mark.parametrize(
    "architecture",
    ["ViTForImageClassification", "CLIPModel", "SiglipModel", "Dinov2WithRegistersModel", "DINOv3ViTModel"],
)
def test_a_tower_reads_them_as_transformers_does(architecture, tmp_path):
    folder = tiny_towers.tower(tmp_path / "tower", architecture)
    source = open_source(str(folder))
    found = source.smaller_encoder((3, 3))
    own: Any = getattr(transformers, architecture).from_pretrained(folder)
    stretch = {} if architecture.startswith("D") else {"interpolate_pos_encoding": True}
    picture, large = torch.randn(1, 3, 24, 24), torch.randn(1, 3, 48, 48)
    with torch.inference_mode():
        tokens, result = found.module(picture)
        said = getattr(own, "get_image_features", own)(picture, **stretch)
        # The whole encoder is what it was.
        whole = getattr(own, "get_image_features", own)(large, **stretch)
        states = whole.last_hidden_state if "last_hidden_state" in whole else own.base_model(large)[0]
        torch.testing.assert_close(source.encoder.module(large)[0], states[:, -36:], atol=1e-5, rtol=1e-3)
    wanted = next(said[name] for name in ("logits", "pooler_output") if name in said)
    assert tokens.shape == (1, 9, 32) and found.grid == (3, 3) and found.inputs["pixel_values"].shape == picture.shape
    torch.testing.assert_close(result, wanted, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("kind", ["Qwen2VL", "Qwen2_5_VL", "Qwen3VL"])
def test_qwen_reads_them_as_a_folder_of_that_size_does(kind, tmp_path):
    def opened(side: int) -> Source:
        folder: Path = tmp_path / str(side)
        tiny_qwen_vl.qwen_vl(folder, kind, side=side)
        return open_source(str(folder), parts="encoder")

    whole, picture = opened(96), torch.randn(1, 3, 64, 64)
    large = torch.randn(1, 3, 96, 96)
    with torch.inference_mode():
        before = whole.encoder.module(large)
        found = whole.smaller_encoder((4, 4))
        torch.testing.assert_close(found.module(picture), opened(64).encoder.module(picture))
        torch.testing.assert_close(whole.encoder.module(large), before)
    # Its windows are 2 x 2 tokens, and no grid cuts one.
    assert (whole.smaller_encoder((3, 3)) is None) == (kind == "Qwen2_5_VL")
