"""LFM2-VL's encoder at several sizes, and what of a folder is refused; whole ones are in test_vision_families.py."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_hybrids
from tokexport.errors import RequestError
from tokexport.exporter.opening import open_source

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_hybrids.lfm2_vl(tmp_path_factory.mktemp("checkpoints") / "lfm2")


def copied(folder: Path, tmp_path: Path, **changes: Any) -> Path:
    """The folder with other values in the configuration of its image processor."""
    made = shutil.copytree(folder, tmp_path / "copy")
    path = made / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return made


@pytest.mark.parametrize(("asked", "grid"), [(None, (4, 4)), ((30, 70), (2, 6)), ((200, 200), (4, 4))])
def test_the_encoder_gives_the_tokens_of_transformers(folder, asked, grid):
    """Learned positions, of 5 x 5 patches, are stretched to the picture; sides that differ are not exchanged."""
    import torch
    from transformers import AutoModelForImageTextToText

    source = open_source(str(folder), image_size=asked)
    assert source.encoder.grid == grid and source.preprocess.size == (12 * grid[0], 12 * grid[1]) == source.image_size
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    smaller = source.smaller_encoder((1, 2))
    for encoder in (source.encoder, smaller):
        pixels = torch.randn(encoder.inputs["pixel_values"].shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            wanted = model.get_image_features(**tiny_hybrids.patches(pixels, 6)).pooler_output[0]
            torch.testing.assert_close(encoder.module(pixels)[0], wanted, atol=1e-5, rtol=1e-4)
    assert smaller.inputs["pixel_values"].shape == (1, 3, 12, 24)


def test_layers_with_a_state_have_no_room_for_keys(folder):
    source = open_source(str(folder), parts="all")
    generation = source.generation(5)
    assert generation.kv_capacity == [0, 128 + 5 + 128, 0]
    _, prefill, decode = source.language(5)
    assert [name for name in decode.inputs if name.startswith("past_")] == ["past_key_1", "past_value_1"]
    states = {name: tuple(value.shape) for name, value in decode.inputs.items() if name.startswith("state_")}
    assert states == {"state_conv_0": (1, 32, 2), "state_conv_2": (1, 32, 2)}
    assert prefill.outputs[-2:] == tuple(states) and decode.outputs[-2:] == tuple(f"new_{name}" for name in states)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"encoder_patch_size": 16}, "encoder_patch_size of preprocessor_config.json is 16"),
        ({"downsample_factor": 4}, "downsample_factor of preprocessor_config.json is 4"),
        ({"min_image_tokens": 10, "max_image_tokens": 15}, "no square has 10 to 15 tokens"),
        ({"max_image_tokens": "many"}, "max_image_tokens"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(folder, tmp_path, change, why):
    with pytest.raises(RequestError, match=why):
        open_source(str(copied(folder, tmp_path, **change)))


def test_the_cure_of_a_refusal_works(folder, tmp_path):
    made = copied(folder, tmp_path, min_image_tokens=10, max_image_tokens=15)
    with pytest.raises(RequestError) as refusal:
        open_source(str(made))
    assert "to 9" in refusal.value.fix
    path = made / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "min_image_tokens": 9}))
    assert open_source(str(made)).encoder.grid == (3, 3)


def test_an_image_that_is_too_long_is_refused(folder):
    with pytest.raises(RequestError, match="--image-size: absolute aspect ratio"):
        open_source(str(folder), image_size=(16, 9000))
