"""SigLIP's head, which is nn.MultiheadAttention with a learned probe: compressed before it, and proved with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from tokexport.exporter.cli import main

MODULE = """
import torch, transformers
class Tower(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        sizes = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2)
        config = transformers.SiglipVisionConfig(**sizes, image_size=56, patch_size=14)
        config._attn_implementation = "sdpa"
        self.model = transformers.SiglipVisionModel(config)
    def forward(self, pixel_values):
        return self.model(pixel_values).pooler_output
def tower():
    return Tower(), torch.randn(1, 3, 56, 56)
"""


@pytest.mark.parametrize("seam", ["encoder_output", "encoder_layer:0", "encoder_layer:1"])
def test_merged_tokens_before_a_pooling_head(tmp_path, monkeypatch, seam):
    pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("pooled.py").write_text(MODULE)
    arguments = ["model", "pooled:tower", "--method", "kcenter_merge", "--keep", "5", "--seam", seam, "-o", "b"]
    done = CliRunner().invoke(main, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    assert data["compression"][0]["size_bias"]
    assert {check["part"] for check in data["proof"]["checks"] if check["ok"]} == {"head", "compressor", "tail"}
