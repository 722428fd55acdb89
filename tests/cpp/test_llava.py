"""A LLaVA folder through the C++ runtime as in Python: ids in, text out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_checkpoints
from cpp_build import Calls, outcome
from tokexport.errors import RequestError
from tokexport.exporter.pipeline import export
from tokexport.runtimes.load import load


def test_a_llava_folder_answers_as_in_python(cpp: Calls, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    folder = tiny_checkpoints.whole_llava(tmp_path / "folder")
    settings = {"method": "kcenter_merge", "ratio": "0.75", "verify": False, "prompt_length": 24, "answer_length": 16}
    path = export(str(folder), tmp_path / "b", **settings).bundle
    session, said = load(path, threads=1), set()
    ids = session.ids("What is in w17 w18 ?")
    for seed in range(4):
        rows = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
        pixels = np.ascontiguousarray(rows.repeat(21, 0).repeat(21, 1))
        found = cpp.image("generate", pixels, bundle=path, prompt_ids=ids, keep=True)
        assert found == session.generate(pixels, ids).to_json() and found["text"]
        said |= set(found["ids"])
    assert len(said) > 2
    assert outcome(cpp.image, "generate", pixels, bundle=path, prompt="What is it ?") is RequestError
