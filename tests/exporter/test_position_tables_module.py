"""A module with rotary tables, compressed inside its layers: the graph reads their rows, the module itself cannot."""

from __future__ import annotations

from pathlib import Path

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


def test_the_graph_reads_rows_and_the_proof_says_what_it_cannot_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("rotary.py").write_text(MODULE)
    common = ["model", "rotary:tower", "--seam", "encoder_layer:0", "--keep", "6"]
    refused = CliRunner().invoke(main, [*common, "--method", "uniform", "-o", "a"])
    assert (
        refused.exit_code == 2 and "does not run on fewer tokens" in refused.stderr and "--no-verify" in refused.stderr
    )
    done = CliRunner().invoke(main, [*common, "--method", "uniform", "--no-verify", "-o", "b"])
    assert done.exit_code == 0, done.output
    merged = CliRunner().invoke(main, [*common, "--method", "kcenter_merge", "-o", "c"])
    assert merged.exit_code == 2 and "a merged slot has no single position" in merged.stderr


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
