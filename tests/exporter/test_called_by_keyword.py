"""A tower whose forward takes keywords only, made of modules that are called by keyword and return named outputs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from tokexport.exporter.cli import main

MODULE = """
import torch
from torch import nn
class Named(dict):
    pass
class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    def forward(self, *, mask=None, hidden_states):
        return Named(last_hidden_state=self.layer(src=hidden_states))
class Projector(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 8)
    def forward(self, *, scale, hidden_states):
        return self.linear(hidden_states) * scale
class Tower(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([Layer(), Layer()])
        self.projector = Projector()
    def forward(self, input_ids=None, *, pixel_values, positions):
        x = pixel_values + positions
        for layer in self.layers:
            x = layer(hidden_states=x)["last_hidden_state"]
        return self.projector(scale=torch.ones(8), hidden_states=x)
def tower():
    return Tower(), {"positions": torch.randn(1, 20, 16), "pixel_values": torch.randn(1, 20, 16)}
"""


@pytest.mark.parametrize("seam", ["encoder_layer:0", "encoder_output", "projector_input", "projector_output"])
def test_a_tower_that_takes_keywords_is_exported_and_proved(tmp_path, monkeypatch, seam):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("named.py").write_text(MODULE)
    arguments = ["model", "named:tower", "--method", "uniform", "--keep", "5", "--seam", seam, "-o", "b", "--json"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    assert all(check["ok"] for check in data["proof"]["checks"])
    assert {check["part"] for check in data["proof"]["checks"]} >= {"head", "compressor"}
    inputs = json.loads(Path("b/manifest.json").read_text())["variants"][0]["graphs"]["encoder"]["inputs"]
    assert list(inputs) == ["pixel_values", "positions"]
