"""Compressors between the layers of a language model: the proof, its answers, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_checkpoints
import tokexport
from click.testing import CliRunner
from tokexport.errors import RequestError
from tokexport.exporter.cli import main
from tokexport.exporter.opening import open_source
from tokexport.graph_passes.compressors import make
from tokexport.graph_passes.insertion.sequence import Step

pytest.importorskip("transformers")

LENGTHS = {"prompt_length": 24, "answer_length": 20}
QUESTION = "What is in w17 w18 ?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoints.whole_llava(tmp_path_factory.mktemp("checkpoints") / "deep", depth=4, loud=True)


@pytest.fixture(scope="module")
def bundle(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FastV's half behind the second layer, by the command."""
    out = tmp_path_factory.mktemp("bundles") / "b"
    asked = ["--method", "cls_topk", "--seam", "decoder_layer:1", "--ratio", "0.5", "-o", str(out)]
    result = CliRunner().invoke(main, ["model", str(folder), *asked, "--prompt-length", "24", "--answer-length", "20"])
    assert result.exit_code == 0, result.output
    return out


def test_every_part_is_proved_and_answers_are_those_of_transformers(bundle):
    checks = json.loads((bundle / "parity.json").read_text())["checks"]
    assert all(check["ok"] for check in checks)
    (answers,) = [check for check in checks if check["part"] == "generation"]
    assert "60 tokens of 3 answers compared" in answers["detail"] and "1 distinct" not in answers["detail"]
    assert {"sequence", "prefill", "decode"} <= {check["part"] for check in checks}
    assert any("compressor_1.cls_topk" in check["tensor"] for check in checks)


def test_the_manifest_says_what_each_layer_holds(bundle):
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["schema"] == "2.5"
    (variant,) = manifest["variants"]
    assert variant["name"] == "cls_topk-0.5"
    record = variant["compression"][-1]
    assert (record["tokens_in"], record["tokens_out"], record["ratio"]) == (36, 18, "0.5")
    assert record["seam"]["graph"] == "prefill" and record["seam"]["kind"] == "decoder_layer:1"
    assert record["seam"]["span"] == [variant["generation"]["image_span"][0], 36]
    assert variant["generation"]["kv_capacity"] == [24 + 36 + 20] * 2 + [24 + 18 + 20] * 2


def test_a_bundle_answers_a_question_as_its_folder_does(folder, bundle):
    """From pixels, for a question that the proof did not ask, through the runtime's own caches."""
    session = tokexport.load(bundle)
    pixels = np.random.default_rng(5).integers(0, 255, (84, 84, 3), dtype=np.uint8)
    ids = session.ids(QUESTION)
    source = _with(folder, ("decoder_layer:1", 18))
    source.prompts = lambda n, images=1: [ids] * n
    encoded = session.encode(pixels)
    own = source.own_answer(encoded, np.zeros((1, 36), np.float32), 20)
    said = session.generate(pixels, QUESTION).ids
    assert len(set(said)) > 5 and said == [i for i in own.ids if i != 2]


def _with(folder: Path, *steps: tuple[str, int], method: str = "cls_topk") -> Any:
    source: Any = open_source(str(folder), parts="all")
    return source.inside([Step(make(method), None, keep, seam) for seam, keep in steps], size_bias=True)


@pytest.mark.parametrize(
    ("seams", "why"),
    [
        (["decoder_layer:3"], "Take decoder_layer:0 to decoder_layer:2"),
        (["decoder_layer:1", "decoder_layer:1"], "one at a layer"),
        (["decoder_layer:2", "decoder_layer:0"], "from front to back"),
        (["decoder_layer:5/4"], "decoder_layer:1/4"),
    ],
)
def test_seams_that_are_none_are_refused(folder, seams, why):
    with pytest.raises(RequestError, match=why):
        _with(folder, *((seam, 18 - number) for number, seam in enumerate(seams)))


@pytest.mark.parametrize("method", ["tome", "sparsevlm", "pixel_unshuffle", "qformer"])
def test_methods_that_need_what_is_not_there_are_refused(folder, method):
    with pytest.raises(RequestError, match=r"decoder_layer:1: it .*cls_topk"):
        _with(folder, ("decoder_layer:1", 9), method=method)
