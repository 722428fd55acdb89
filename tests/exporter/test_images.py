"""A checkpoint's image processor becomes a record, or none where the record has no word for what it does."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tokexport.exporter.opening import open_source

CLIP = {
    "do_center_crop": True,
    "size": {"shortest_edge": 84},
    "crop_size": {"height": 84, "width": 84},
    "resample": 3,
    "image_mean": [0.1, 0.2, 0.3],
    "image_std": [0.4, 0.5, 0.6],
}
PADDED = {"do_pad": True, "image_processor_type": "LlavaImageProcessor"}


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({}, {"crop": "center", "resample": "bicubic", "mean": (0.1, 0.2, 0.3), "rescale": 1 / 255}),
        ({"size": 84, "crop_size": 84, "resample": 2}, {"crop": "center", "resample": "bilinear"}),
        ({"do_center_crop": False, "size": {"height": 84, "width": 84}}, {"crop": "none", "size": (84, 84)}),
        (PADDED, {"crop": "pad"}),
        ({"do_normalize": False, "do_rescale": False}, {"mean": (0, 0, 0), "std": (1, 1, 1), "rescale": 1}),
        ({"size": {"shortest_edge": 96}}, {"crop": "center", "size": (84, 84), "shortest": 96}),
        ({"size": {"shortest_edge": 84}}, {"crop": "center", "shortest": None}),
        ({"size": {"shortest_edge": 70}}, None),
        ({"size": {"shortest_edge": 5000}}, None),
        ({"crop_size": {"height": 70, "width": 84}}, None),
        ({"do_pad": True, "image_processor_type": "OtherImageProcessor"}, None),
        ({"do_center_crop": False, "size": {"longest_edge": 84}}, None),
        ({"resample": 4}, None),
    ],
    ids=str,
)
@pytest.mark.parametrize("nested", [False, True])
def test_preprocessing_is_read_or_left_out_where_it_cannot_be_said(tmp_path, tiny_llava_folder, change, wanted, nested):
    for file in ("config.json", "model.safetensors"):
        (tmp_path / file).symlink_to(tiny_llava_folder / file)
    processor = {**CLIP, **change}
    if nested:
        (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": processor}))
    else:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    record = open_source(str(tmp_path)).preprocess
    if wanted is None:
        assert record is None
    else:
        assert {key: getattr(record, key) for key in wanted} == wanted
