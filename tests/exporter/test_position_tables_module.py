"""A module with rotary tables, compressed inside its layers: graph and proof read the rows of the kept tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from tokexport.exporter.cli import main

MODULE = """
import torch
from torch import nn
class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(16, 16) for _ in range(4))
    def forward(self, x, cos, sin):
        def turned(y):
            y = y.unflatten(-1, (2, 8)).transpose(1, 2)
            a, b = y.chunk(2, -1)
            return y * cos + torch.cat([-b, a], -1) * sin
        v = self.v(x).unflatten(-1, (2, 8)).transpose(1, 2)
        mixed = nn.functional.scaled_dot_product_attention(turned(self.q(x)), turned(self.k(x)), v)
        return x + self.out(mixed.transpose(1, 2).flatten(2))
class Tower(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers, self.projector = nn.ModuleList([Layer(), Layer(), Layer()]), nn.Linear(16, 8)
        angles = torch.arange(20.0)[:, None] * torch.rand(1, 8)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())
    def forward(self, x):
        for layer in self.layers:
            x = layer(x, self.cos, self.sin)
        return self.projector(x)
def tower():
    return Tower(), torch.randn(1, 20, 16)
"""


# Each hands its tables to the layers in another way.
WAYS = {
    "by position": MODULE,
    "by keyword": MODULE.replace("layer(x, self.cos, self.sin)", "layer(x, cos=self.cos, sin=self.sin)"),
    "as a pair": MODULE.replace("layer(x, self.cos, self.sin)", "layer(x, (self.cos, self.sin))").replace(
        "def forward(self, x, cos, sin):", "def forward(self, x, tables):\n        cos, sin = tables"
    ),
    "held by the layers": MODULE.replace("layer(x, self.cos, self.sin)", "layer(x)")
    .replace("def forward(self, x, cos, sin):", "def forward(self, x):\n        cos, sin = self.cos, self.sin")
    .replace(
        '        self.register_buffer("cos", angles.cos())\n        self.register_buffer("sin", angles.sin())\n',
        '        for layer in self.layers:\n            layer.register_buffer("cos", angles.cos())\n'
        '            layer.register_buffer("sin", angles.sin())\n',
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_layers_are_proved_on_the_rows_of_the_kept_tokens(way, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    name = f"rotary_{list(WAYS).index(way)}"
    Path(f"{name}.py").write_text(WAYS[way])
    common = ["model", f"{name}:tower", "--seam", "encoder_layer:0", "--keep", "6", "--method"]
    done = CliRunner().invoke(main, [*common, "uniform", "-o", "b", "--json"])
    assert done.exit_code == 0, done.output
    checks = json.loads(done.stdout)["proof"]["checks"]
    assert {"head", "compressor", "tail"} <= {check["part"] for check in checks if check["ok"]}


def test_what_has_no_rows_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("rotary.py").write_text(MODULE)
    own = MODULE.replace("x = layer(x, self.cos", "x = layer(x * torch.cat([self.cos, self.sin], 1), self.cos")
    Path("rotary_own.py").write_text(own)
    common = ["--seam", "encoder_layer:0", "--keep", "6", "--method"]
    merged = CliRunner().invoke(main, ["model", "rotary:tower", *common, "kcenter_merge", "-o", "c"])
    assert merged.exit_code == 2 and "a merged slot has no single position" in merged.stderr
    refused = CliRunner().invoke(main, ["model", "rotary_own:tower", *common, "uniform", "-o", "a"])
    assert refused.exit_code == 2 and "does not run on fewer tokens" in refused.stderr
    assert "--no-verify" in refused.stderr


def test_every_token_kept_in_its_place_changes_nothing(tmp_path, monkeypatch):
    """The compressed graph on the rows of the first and last tokens is the module on these alone."""
    import importlib

    import numpy as np
    import onnxruntime
    import torch

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("rotary_rows.py").write_text(MODULE)
    arguments = ["model", "rotary_rows:tower", "--seam", "encoder_layer:0", "--keep", "6", "--method", "uniform"]
    done = CliRunner().invoke(main, [*arguments, "--no-verify", "-o", "b"])
    assert done.exit_code == 0, done.output
    tower, x = importlib.import_module("rotary_rows").tower()
    session = onnxruntime.InferenceSession("b/encoder.onnx")
    names = [output.name for output in session.get_outputs()]
    got = dict(zip(names, session.run(None, {"x": x.numpy()})))
    kept = torch.from_numpy(got["kept_indices"][0])
    with torch.no_grad():
        hidden = tower.layers[0](x, tower.cos, tower.sin)[:, kept]
        for layer in tower.layers[1:]:
            hidden = layer(hidden, tower.cos[kept], tower.sin[kept])
        expected = tower.projector(hidden)
    np.testing.assert_allclose(got["tokens"], expected.numpy(), rtol=1e-4, atol=1e-5)
