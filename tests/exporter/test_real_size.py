"""Encoders at real size with random weights: the exported graph agrees with the module that it came from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import real_size

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
ort = pytest.importorskip("onnxruntime")

from tokexport.exporter.opening import open_source  # noqa: E402


@pytest.mark.slow
@pytest.mark.parametrize(("name", "shape"), [("llava", (1, 576, 4096)), ("whisper", (1, 1500, 768))])
def test_an_encoder_of_real_size(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    folder = real_size.MODELS[name](tmp_path / name)
    print(real_size.export(folder, tmp_path / "encoder.onnx"))
    source = open_source(str(folder))
    (x,) = source.real_inputs(1)
    got = ort.InferenceSession(str(tmp_path / "encoder.onnx")).run(["tokens"], x)[0]
    with torch.no_grad():
        wanted = source.encoder.module(*map(torch.from_numpy, x.values())).numpy()
    assert got.shape == wanted.shape == shape and wanted.std(1).min() > 1e-3
    cosine = (got * wanted).sum() / np.linalg.norm(got) / np.linalg.norm(wanted)
    assert cosine > 0.9999 and abs(np.linalg.norm(got) / np.linalg.norm(wanted) - 1) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kept"), [("llava", 86), ("whisper", 225)])
def test_an_encoder_of_real_size_compressed_and_proved(tmp_path: Path, name: str, kept: int) -> None:
    from tokexport.exporter.pipeline import export

    done = export(str(real_size.MODELS[name](tmp_path / name)), tmp_path / "bundle", method="apet", ratio="0.85")
    assert done.compression[0]["tokens_out"] == kept
    assert done.proof is not None and all(check["ok"] for check in done.proof["checks"])
    assert done.drift is not None and done.drift["kept_overlap"] > 0.98
