"""An image tower through the C++ runtime: its encoder as in Python, and a question is refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_towers
from cpp_build import Calls, arrays, run
from PIL import Image
from tokexport.errors import RequestError
from tokexport.exporter.pipeline import export
from tokexport.runtimes.load import load


def test_a_tower_encodes_as_in_python_and_is_asked_nothing(cpp: Calls, installed: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    folder = tiny_towers.tower(tmp_path / "folder", "Dinov2ForImageClassification")
    path = export(str(folder), tmp_path / "b", method="kcenter_merge", ratio="0.75", verify=False).bundle
    pixels = np.random.default_rng(0).integers(0, 255, (70, 90, 3), dtype=np.uint8)
    found, expected = arrays(cpp.image("encode", pixels, bundle=path)), load(path, threads=1).encode(pixels)
    assert found.keys() == expected.keys() and found["logits"].std() > 0.01
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-5)
    with pytest.raises(RequestError, match=r"no language graphs.*an image tower.*Session::encode"):
        cpp.image("generate", pixels, bundle=path, prompt="what ?")
    Image.fromarray(pixels).save(tmp_path / "a.png")
    refused = run(installed / "bin/tokexport-run", path, "--image", tmp_path / "a.png", code=2)
    assert "an image tower" in refused.stderr and refused.stderr.count("\n") == 1
