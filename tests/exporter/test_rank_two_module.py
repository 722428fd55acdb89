"""A tower whose tokens have no batch axis, as in Qwen: exported, compressed and proved against PyTorch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from tokexport.exporter.cli import main

MODULE = """
import torch
from torch import nn
class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)
    def forward(self, x):
        q, k, v = self.qkv(self.norm(x)).reshape(-1, 3, 2, 8).permute(1, 2, 0, 3).unsqueeze(1).unbind(0)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return x + self.out(mixed[0].transpose(0, 1).flatten(1))
class Tower(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.merger = nn.Linear(12, 16), nn.Linear(16, 8)
        self.layers = nn.ModuleList([Layer(), Layer()])
    def forward(self, pixel_values):
        x = self.embed(pixel_values)
        for layer in self.layers:
            x = layer(x)
        return self.merger(x)
def tower():
    return Tower(), torch.randn(24, 12)
"""


@pytest.mark.parametrize(
    ("method", "seam", "parts"),
    [
        ("apet", "projector_output", {"head", "compressor", "tail"}),
        ("kcenter_merge", "encoder_layer:0", {"head", "compressor", "tail"}),
        ("dart", "encoder_output", {"head", "compressor", "tail"}),
    ],
)
def test_a_tower_without_a_batch_axis(tmp_path, monkeypatch, method, seam, parts):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("flat.py").write_text(MODULE)
    arguments = ["model", "flat:tower", "--method", method, "--keep", "12", "--seam", seam, "-o", "b", "--json"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    assert {check["part"] for check in data["proof"]["checks"]} == parts
    assert all(check["ok"] for check in data["proof"]["checks"]) and data["compression"][0]["tokens_in"] == 24
    outputs = json.loads(Path("b/manifest.json").read_text())["variants"][0]["graphs"]["encoder"]["outputs"]
    assert outputs["tokens"]["shape"] == [12, 8]


def test_a_folder_of_inputs_judges_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("flat.py").write_text(MODULE)
    Path("in").mkdir()
    for i in range(2):
        np.save(f"in/{i}.npy", np.random.default_rng(i).standard_normal((24, 12)).astype(np.float32))
    arguments = ["sweep", "flat:tower", "--method", "kcenter_merge", "--ratio", "0.5", "--inputs", "in", "-o", "s"]
    done = CliRunner().invoke(main, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    assert '"figure": "cosine"' in done.stdout
