"""A LLaVA folder through the C++ runtime as in Python: ids in, text out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_checkpoints
from cpp_build import INSTALLED, Calls, outcome, run
from PIL import Image
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


@pytest.mark.slow
def test_two_images_are_answered_as_in_python(cpp: Calls, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    folder = tiny_checkpoints.whole_llava(tmp_path / "folder")
    lengths = {"verify": False, "prompt_length": 24, "answer_length": 16, "images": 3}
    path = export(str(folder), tmp_path / "b", method="kcenter_merge", ratio="0.75", **lengths).bundle
    session, question = load(path, threads=1), "What is in w17 w18 ?"
    few = [np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8) for seed in range(3)]
    pictures = [np.ascontiguousarray(one.repeat(21, 0).repeat(21, 1)) for one in few]
    answers = []
    for count in (1, 2, 3):
        ids = session.ids(question, count)
        answers.append(cpp.images("generate", pictures[:count], bundle=path, prompt_ids=ids, keep=True))
        assert answers[-1] == session.generate(pictures[:count], ids).to_json()
    assert len({tuple(one["ids"]) for one in answers}) == 3
    asked = {"bundle": path, "prompt_ids": ids}
    assert outcome(cpp.images, "generate", pictures[:2], **asked) is RequestError
    assert outcome(cpp.images, "generate", [*pictures, pictures[0]], **asked) is RequestError
    files = []
    for number, one in enumerate(pictures):
        files += ["--image", tmp_path / f"{number}.png"]
        Image.fromarray(one).save(files[-1])
    tool = (INSTALLED / "bin/tokexport-run", *files, path, "--prompt-ids", ",".join(map(str, ids)), "--json")
    assert json.loads(run(*tool).stdout) == answers[-1]


@pytest.mark.slow
def test_compressors_between_layers_answer_as_in_python(cpp: Calls, tmp_path: Path) -> None:
    """The caches of the later layers are shorter, and decode is told of what was merged there."""
    pytest.importorskip("torch")
    folder = tiny_checkpoints.whole_llava(tmp_path / "folder", depth=3, loud=True)
    settings = {"method": "kcenter_merge", "seam": "decoder_layer:0", "verify": False, "answer_length": 16}
    path = export(str(folder), tmp_path / "b", ratio="0.75", prompt_length=24, **settings).bundle
    session, said = load(path, threads=1), set()
    ids = session.ids("What is in w17 w18 ?")
    for seed in range(4):
        rows = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
        pixels = np.ascontiguousarray(rows.repeat(21, 0).repeat(21, 1))
        found = cpp.image("generate", pixels, bundle=path, prompt_ids=ids, keep=True)
        assert found == session.generate(pixels, ids).to_json()
        said |= set(found["ids"])
    assert len(said) > 5
