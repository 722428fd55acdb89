"""Compressors between a block's attention and its feed-forward, and the recipes of papers that compress in blocks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_towers
import tokexport
from click.testing import CliRunner
from learned_weights import asked_shapes
from tokexport.exporter.cli import main
from tokexport.graph_passes.compressors import Case, make

pytest.importorskip("transformers")

TOKENS = (tiny_towers.SIDE // tiny_towers.PATCH) ** 2
AT, KEEP = 1, 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("towers") / "vit"
    return tiny_towers.tower(where, "ViTForImageClassification", num_hidden_layers=3)


def asked(*arguments: Any) -> Any:
    return CliRunner().invoke(main, ["model", *map(str, arguments)])


def answered(*arguments: Any) -> Any:
    done = asked(*arguments, "--json")
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    assert all(check["ok"] for check in data["proof"]["checks"])
    return data


def classes(folder: Path, pixels: np.ndarray, method: str) -> np.ndarray:
    """The logits of transformers' own layers, with the reference between the attention and the MLP of one of them."""
    import torch
    import transformers

    model = transformers.ViTForImageClassification.from_pretrained(folder, attn_implementation="eager")
    compressor, mask = make(method), None
    with torch.no_grad():
        x = model.vit.embeddings(torch.from_numpy(pixels))
        for number, layer in enumerate(model.vit.layers):
            normed = layer.layernorm_before(x)
            attended, weights = layer.attention(normed, mask)
            x = x + attended
            if number == AT:
                read = {
                    "keys": layer.attention.k_proj(normed).unflatten(2, (weights.shape[1], -1)).mean(2)[:, 1:],
                    "cls_attention": weights[:, :, 0, 1:].mean(1),
                }
                read = {name: read[name] for name in compressor.signals()}
                got = compressor.reference(Case(TOKENS, x.shape[2], KEEP), x[:, 1:], **read)
                x = torch.cat([x[:, :1], got.tokens], 1)
                mask = torch.cat([torch.zeros(1, 1), got.sizes.log()], 1)[:, None, None]
            x = x + layer.mlp(layer.layernorm_after(x))
        return model.classifier(model.vit.layernorm(x)[:, 0]).numpy()


@pytest.mark.parametrize("method", ["tome", "evit"])
def test_the_classes_are_those_of_a_model_patched_at_the_same_place(folder, tmp_path, method):
    seam = f"encoder_attention:{AT}"
    data = answered(folder, "--method", method, "--keep", KEEP, "--seam", seam, "-o", tmp_path / "b")
    assert {check["part"] for check in data["proof"]["checks"]} == {"head", "compressor", "tail"}
    (one,) = data["compression"]
    assert one["seam"]["kind"] == seam and one["size_bias"]
    pixels = np.random.default_rng(0).standard_normal((1, 3, tiny_towers.SIDE, tiny_towers.SIDE)).astype(np.float32)
    found = tokexport.load(tmp_path / "b").encode(pixels)["logits"]
    np.testing.assert_allclose(found, classes(folder, pixels, method), atol=1e-4)


def test_rotary_tables_are_read_at_the_kept_tokens_behind_the_feed_forward(tmp_path):
    folder = tiny_towers.tower(tmp_path / "dino", "DINOv3ViTModel")
    out = tmp_path / "b"
    data = answered(folder, "--method", "tome", "--keep", KEEP, "--seam", "encoder_attention:0", "-o", out)
    assert {check["part"] for check in data["proof"]["checks"]} == {"head", "compressor", "tail"}


RECIPES = {
    "evit-blocks": [36, 25, 17, 12],
    "xray-visual": [36, 25, 17, 12],
    "folder-last-block": [36, 12],
    "tome-blocks": [36, 27, 17, 7],
    "dynamicvit-blocks": [36, 25, 17, 11],
}
ALIKE = ("evit-blocks", "xray-visual", "folder-last-block")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in ALIKE)) for name in RECIPES])
def test_a_recipe_inside_blocks_is_proved_on_a_tower(folder, tmp_path, name):
    more = []
    if name.startswith("dynamicvit"):
        rng, case = np.random.default_rng(0), Case(TOKENS, 32, 9)
        shapes = [shape for stage in range(3) for shape in asked_shapes("dynamicvit", {"stage": stage}, case).items()]
        np.savez(tmp_path / "w.npz", **{key: 0.3 * rng.standard_normal(shape) for key, shape in shapes})
        more = ["--set", f"weights={tmp_path / 'w.npz'}"]
    data = answered(folder, "--recipe", name, *more, "-o", tmp_path / "b")
    steps = data["compression"]
    assert [steps[0]["tokens_in"], *(step["tokens_out"] for step in steps)] == RECIPES[name]
    kind = "encoder_layer" if more else "encoder_attention"
    assert all(step["seam"]["kind"].startswith(f"{kind}:") for step in steps)
    places = [int(step["seam"]["kind"].rpartition(":")[2]) for step in steps]
    assert places == sorted(set(places)) and places[-1] == 2


@pytest.mark.parametrize("name", ["a-tome-blocks", pytest.param("ast-blocks", marks=pytest.mark.slow)])
def test_a_recipe_inside_blocks_is_proved_on_whisper(tiny_whisper_folder, tmp_path, name):
    data = answered(tiny_whisper_folder, "--recipe", name, "--parts", "encoder", "-o", tmp_path / "b")
    assert {"head", "compressor", "tail"} <= {check["part"] for check in data["proof"]["checks"]}
    assert data["compression"][-1]["seam"]["kind"] == "encoder_attention:1"


def test_a_layer_that_is_not_there_has_its_nearest(folder, tmp_path):
    done = asked(folder, "--method", "tome", "--keep", "9", "--seam", "encoder_attention:7", "-o", tmp_path / "b")
    assert done.exit_code == 2
    assert "encoder_attention:2" in " ".join(done.output.split())
