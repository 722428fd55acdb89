"""A LLaVA folder through the C++ runtime as in Python: ids in, text out."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_checkpoints
import tiny_hybrids
import tiny_qwen_vl
from cpp_build import INSTALLED, Calls, outcome, run
from PIL import Image
from tokexport.errors import RequestError
from tokexport.exporter.pipeline import export
from tokexport.runtimes.load import load


def drawn(seed: int) -> np.ndarray:
    """Squares of 4 x 4 colours."""
    rows = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    return np.ascontiguousarray(rows.repeat(21, 0).repeat(21, 1))


def answers_alike(cpp: Calls, path: Path, ids: list[int]) -> list[dict[str, Any]]:
    """What C++ says of four pictures, which is what Python says."""
    session, said = load(path, threads=1), []
    for seed in range(4):
        said.append(cpp.image("generate", drawn(seed), bundle=path, prompt_ids=ids, keep=True))
        assert said[-1] == session.generate(drawn(seed), ids).to_json()
    return said


def test_a_llava_folder_answers_as_in_python(cpp: Calls, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    folder = tiny_checkpoints.whole_llava(tmp_path / "folder")
    settings = {"method": "kcenter_merge", "ratio": "0.75", "verify": False, "prompt_length": 24, "answer_length": 16}
    path = export(str(folder), tmp_path / "b", **settings).bundle
    found = answers_alike(cpp, path, load(path, threads=1).ids("What is in w17 w18 ?"))
    assert all(one["text"] for one in found)
    assert len({i for one in found for i in one["ids"]}) > 2
    assert outcome(cpp.image, "generate", drawn(3), bundle=path, prompt="What is it ?") is RequestError


def test_slots_that_are_read_by_position_answer_as_in_python(cpp: Calls, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    folder = tiny_checkpoints.whole_llava(tmp_path / "folder", loud=True)
    settings = {"method": "kcenter_merge", "ratio": "0.75", "verify": False, "prompt_length": 24, "answer_length": 16}
    merged, by_position = (
        export(str(folder), tmp_path / way, size_bias=way, **settings).bundle for way in ("auto", "positions")
    )
    ids = load(merged, threads=1).ids("What is in w17 w18 ?")
    found = answers_alike(cpp, by_position, ids)
    assert [one["ids"] for one in found] != [one["ids"] for one in answers_alike(cpp, merged, ids)]


@pytest.mark.slow
def test_two_images_are_answered_as_in_python(cpp: Calls, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    folder = tiny_checkpoints.whole_llava(tmp_path / "folder")
    lengths = {"verify": False, "prompt_length": 24, "answer_length": 16, "images": 3}
    path = export(str(folder), tmp_path / "b", method="kcenter_merge", ratio="0.75", **lengths).bundle
    session, question = load(path, threads=1), "What is in w17 w18 ?"
    pictures = [drawn(seed) for seed in range(3)]
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


# Behind the compressor one layer attends to what is left, and one carries states.
LINEAR, CONV = (("full_attention", "full_attention", other) for other in ("linear_attention", "conv"))
MERGED = {"method": "kcenter_merge", "seam": "decoder_layer:0", "keep": 5}
LLAVA = partial(tiny_checkpoints.whole_llava, depth=3, loud=True)
# What a language model has -> a folder of its kind, and what is compressed there.
INSIDE: dict[str, tuple[Callable[[Path], Path], dict[str, Any]]] = {
    "conv": (partial(tiny_hybrids.lfm2_vl, layers=CONV), MERGED),
    "linear": (partial(tiny_qwen_vl.qwen_vl, kind="Qwen3_5", layer_types=[*LINEAR]), MERGED),
    "DeepStack": (partial(tiny_qwen_vl.qwen_vl, kind="Qwen3VL"), {**MERGED, "method": "cls_topk"}),
    "M-RoPE": (partial(tiny_qwen_vl.qwen_vl, kind="Qwen2_5_VL"), MERGED),
    "images that see themselves": (partial(tiny_checkpoints.gemma3, depth=3), MERGED),
    "prompts that see themselves": (partial(tiny_checkpoints.paligemma, depth=3), MERGED),
    "nothing else": (LLAVA, MERGED),
    "nothing left": (LLAVA, {**MERGED, "keep": 0}),
}


@pytest.mark.parametrize("kind", ["conv", *(pytest.param(one, marks=pytest.mark.slow) for one in [*INSIDE][1:])])
def test_compressors_between_layers_answer_as_in_python(cpp: Calls, tmp_path: Path, kind: str) -> None:
    """The caches of the later layers are shorter, and decode is told of what was merged there."""
    pytest.importorskip("torch")
    make, settings = INSIDE[kind]
    lengths = {"verify": False, "prompt_length": 32, "answer_length": 16}
    path = export(str(make(tmp_path / "folder")), tmp_path / "b", **settings, **lengths).bundle
    found = answers_alike(cpp, path, load(path, threads=1).ids("What is in w17 w18 ?"))
    assert len({i for one in found for i in one["ids"]}) > 5


@pytest.mark.slow
def test_compressors_between_layers_take_each_of_several_images_as_in_python(cpp: Calls, tmp_path: Path) -> None:
    """How much shorter the caches of the later layers are filled depends on how many images a prompt has."""
    pytest.importorskip("torch")
    folder = tiny_checkpoints.whole_llava(tmp_path / "folder", depth=3, loud=True)
    settings = {"method": "kcenter_merge", "seam": "decoder_layer:0", "keep": 9, "verify": False}
    path = export(str(folder), tmp_path / "b", images=3, prompt_length=32, answer_length=16, **settings).bundle
    session, pictures = load(path, threads=1), [drawn(seed) for seed in range(3)]
    answers = []
    for count in (1, 2, 3):
        ids = session.ids("What is in w17 w18 ?", count)
        answers.append(cpp.images("generate", pictures[:count], bundle=path, prompt_ids=ids, keep=True))
        assert answers[-1] == session.generate(pictures[:count], ids).to_json()
    assert len({tuple(one["ids"]) for one in answers}) == 3 and len({i for one in answers for i in one["ids"]}) > 8


def test_the_frames_of_a_video_are_answered_as_in_python(cpp: Calls, tmp_path: Path) -> None:
    """Six pictures, of which the encoder takes one after the other."""
    pytest.importorskip("torch")
    asked_of_frames(cpp, tiny_checkpoints.internvl(tmp_path / "folder", loud=True), tmp_path / "b", 6)


@pytest.mark.slow
def test_frames_that_are_one_tensor_are_answered_as_in_python(cpp: Calls, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    asked_of_frames(cpp, tiny_qwen_vl.qwen_vl(tmp_path / "folder", "Qwen2_5_VL"), tmp_path / "b", 1)


@pytest.mark.slow
def test_compressors_between_layers_take_each_frame_as_in_python(cpp: Calls, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    folder = tiny_checkpoints.internvl(tmp_path / "folder", loud=True)
    asked_of_frames(cpp, folder, tmp_path / "b", 6, method="cls_topk", seam="decoder_layer:0")


def asked_of_frames(cpp: Calls, folder: Path, out: Path, places: int, **settings: Any) -> None:
    """C++ says of six pictures what Python says of the video."""
    known = {"method": "kcenter_merge", "ratio": "0.75", "verify": False, "prompt_length": 64, "answer_length": 16}
    path = export(str(folder), out, frames=6, **{**known, **settings}).bundle
    session, frames = load(path, threads=1), [drawn(seed) for seed in range(6)]
    ids = session.ids("What is in w17 w18 ?", places)
    found = cpp.images("generate", frames, bundle=path, prompt_ids=ids, keep=True)
    assert found == session.generate(np.stack(frames), ids).to_json() and len(set(found["ids"])) > 1
    for other in (frames[:5], [*frames, frames[0]]):
        with pytest.raises(RequestError, match=rf"{len(other)} inputs are given, and the bundle reads 6 frames"):
            cpp.images("generate", other, bundle=path, prompt_ids=ids)
    with pytest.raises(RequestError, match="1 inputs are given, and the bundle reads 6 frames"):
        cpp.image("generate", frames[0], bundle=path, prompt_ids=ids)
