"""Compressors between the layers of language models that rotate by several axes, add features, carry states, have
sliding windows, or let tokens of an image see each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokexport
from cut_models import both, cut
from tiny_checkpoints import gemma3, paligemma, whole_llava
from tiny_hybrids import lfm2_vl
from tiny_qwen_vl import qwen_vl
from tokexport.errors import RequestError
from tokexport.exporter.opening import open_source
from tokexport.exporter.sources.checkpoint import Lengths
from tokexport.exporter.sources.clip import Clip
from tokexport.graph_passes.compressors import make
from tokexport.graph_passes.insertion.sequence import Step

pytest.importorskip("transformers")

# Two layers behind the second cut: one carries a state, the other attends.
HYBRID = ["linear_attention", "full_attention", "linear_attention", "linear_attention", "full_attention"]
FOLDERS: dict[str, Any] = {
    "Qwen2VL": lambda folder: qwen_vl(folder, "Qwen2VL"),
    "Qwen2_5_VL": lambda folder: qwen_vl(folder, "Qwen2_5_VL"),
    "Qwen3VL": lambda folder: qwen_vl(folder, "Qwen3VL"),
    "Qwen3_5": lambda folder: qwen_vl(folder, "Qwen3_5", num_hidden_layers=5, layer_types=HYBRID),
    "LFM2-VL": lfm2_vl,
    # What tokens see behind a cut is read two layers behind it.
    "Gemma3": lambda folder: gemma3(folder, depth=4),
    "PaliGemma": lambda folder: paligemma(folder, kind="gemma", depth=4),
    "PaliGemma2": lambda folder: paligemma(folder, depth=4),
}
LENGTHS = {"prompt_length": 32, "answer_length": 20}


@pytest.fixture(scope="module", params=FOLDERS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = FOLDERS[request.param](tmp_path_factory.mktemp("checkpoints") / request.param)
    return made


@pytest.mark.parametrize("method", ["cls_topk", "kcenter_merge"])
def test_prefill_says_what_transformers_says(folder, method):
    """Of tokens that stand for one to three: what is kept, and the scores of the first two words."""
    source = cut(folder, ("decoder_layer:1", 9), method=method, prompt=32)
    found, own = both(source, [1 + i % 3 for i in range(source.tokens)])
    assert found["kept_indices_1"].tolist() == own.picks["kept_indices_1"].tolist()
    assert np.allclose(np.concatenate([found["logits"], found["next"]]), own.scores, atol=3e-4)
    merged = found["token_bias_1"].exp().sum().round()
    assert merged == sum(1 + i % 3 for i in range(source.tokens)) if method == "kcenter_merge" else merged < 3 * 9


@pytest.mark.parametrize("left", [5, 0])
def test_behind_a_layer_that_carries_a_state(tmp_path, left):
    """Merged twice, or removed: the layers behind count each slot as often as it stands for."""
    source = cut(
        FOLDERS["Qwen3_5"](tmp_path),
        ("decoder_layer:1", 12),
        ("decoder_layer:2", left),
        method="kcenter_merge",
        prompt=32,
    )
    found, own = both(source)
    for name, kept in own.picks.items():
        assert found[name].tolist() == kept.tolist()
    assert np.allclose(np.concatenate([found["logits"], found["next"]]), own.scores, atol=3e-4)


@pytest.mark.parametrize("steps", [[("decoder_layer:0", 9)], [("decoder_layer:0", 18), ("decoder_layer:1", 5)]])
def test_features_are_added_to_the_tokens_that_are_left(tmp_path, steps):
    """Behind the second layer of a Qwen3-VL too, whose tokens were fewer already."""
    source = cut(FOLDERS["Qwen3VL"](tmp_path), *steps, prompt=32)
    assert source.between_layers == "decoder_layer:0 to decoder_layer:1"
    found, own = both(source)
    for name, kept in own.picks.items():
        assert found[name].tolist() == kept.tolist()
    assert np.allclose(np.concatenate([found["logits"], found["next"]]), own.scores, atol=3e-4)
    assert both(cut(tmp_path, ("decoder_layer:0", 0), method="uniform", prompt=32))[0]["logits"].isfinite().all()


@pytest.mark.parametrize("left", [5, 0])
@pytest.mark.parametrize("kind", ["Gemma3", "PaliGemma2"])
def test_the_tokens_that_are_left_see_each_other(tmp_path, kind, left):
    """Behind a second cut too, and none is there to see behind one that removes all; words read those they see."""
    steps = [("decoder_layer:0", 12), ("decoder_layer:1", left)]
    found, own = both(cut(FOLDERS[kind](tmp_path), *steps, attention="words", prompt=32))
    for name, kept in own.picks.items():
        assert found[name].tolist() == kept.tolist()
    assert np.allclose(np.concatenate([found["logits"], found["next"]]), own.scores, atol=3e-4)


def _reconfigured(folder: Path, **text: Any) -> Path:
    """With other values in the text_config of its config.json."""
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= text
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("kinds", [["full_attention", "sliding_attention"], ["sliding_attention"] * 2])
def test_within_its_window_a_layer_that_slides_is_as_any_other(tmp_path, kinds):
    """Of a Qwen2 in a LLaVA, which says so in its configuration alone."""
    window = {"use_sliding_window": True, "sliding_window": 96, "layer_types": kinds * 2}
    folder = _reconfigured(whole_llava(tmp_path, kind="qwen2", depth=4, loud=True), **window)
    found, own = both(cut(folder, ("decoder_layer:1", 9), prompt=32))
    assert found["kept_indices_1"].tolist() == own.picks["kept_indices_1"].tolist()
    assert np.allclose(np.concatenate([found["logits"], found["next"]]), own.scores, atol=3e-4)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ({"use_sliding_window": True, "sliding_window": 64}, r"see 64 \(sliding_window\).*all layers see all"),
        ({"layer_types": ["full_attention", "chunked_attention"]}, r"are chunked_attention .*--seam projector_output"),
    ],
)
def test_longer_sequences_than_the_window_and_other_layers_are_refused(tmp_path, text, why):
    folder = _reconfigured(whole_llava(tmp_path, kind="qwen2"), **text)
    with pytest.raises(RequestError, match=why):
        cut(folder, ("decoder_layer:0", 9), prompt=32)


@pytest.mark.parametrize(
    ("kind", "method", "seam", "why"),
    [
        ("Qwen3_5", "divprune", "decoder_layer:0", "first layer that attends.*Take decoder_layer:1 to decoder_layer:3"),
        (
            "Qwen3_5",
            "cls_topk",
            "decoder_layer:2",
            "layer 2 of this hybrid does not attend.*Take decoder_layer:1, behind",
        ),
        ("Qwen3VL", "apet", "decoder_layer:0", "of the first 2 layers features are added.*Take decoder_layer:1 or one"),
    ],
)
def test_where_it_cannot_be_another_place_is_named(tmp_path, kind, method, seam, why):
    folder = FOLDERS[kind](tmp_path)
    with pytest.raises(RequestError, match=why):
        cut(folder, (seam, 9), method=method, prompt=32)


def test_a_video_that_is_read_as_one_has_cuts(tmp_path):
    """Tokens at their times, rows and columns: those left behind a cut keep them."""
    folder = FOLDERS["Qwen2_5_VL"](tmp_path)
    source: Any = open_source(str(folder), parts="all", lengths=Lengths(32, 20), clip=Clip(6, 3.0))
    source = source.inside([Step(make("kcenter_merge"), None, 9, "decoder_layer:1")], size_bias=True)
    found, own = both(source)
    assert found["kept_indices_1"].tolist() == own.picks["kept_indices_1"].tolist()
    assert np.allclose(np.concatenate([found["logits"], found["next"]]), own.scores, atol=3e-4)


@pytest.mark.slow
def test_whole_bundles_answer_as_transformers_does(folder, tmp_path):
    asked = {"method": "kcenter_merge", "seam": "decoder_layer:1", "keep": 9, **LENGTHS}
    made = tokexport.export(str(folder), tmp_path / "b", **asked)
    assert all(check["ok"] for check in made.proof["checks"])
    answers = made.proof["checks"][-1]
    assert answers["part"] == "generation" and int(answers["detail"].split()[0]) > 30
    variant = json.loads((tmp_path / "b" / "manifest.json").read_text())["variants"][0]
    capacity = [int(count) for count in variant["generation"]["kv_capacity"] if count]
    assert capacity[-1] in (52 + 9, 52 + variant["generation"]["image_span"][1])
