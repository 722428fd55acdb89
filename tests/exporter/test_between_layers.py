"""Compressors between the layers of a language model: the proof, its answers, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import tiny_checkpoints
import tokexport
from click.testing import CliRunner
from cut_models import cut, picks
from PIL import Image
from pydantic import ValidationError
from tokexport.errors import RequestError
from tokexport.exporter.cli import main
from tokexport.exporter.proof.generation import check_answers
from tokexport.exporter.proof.probes import of_bundle
from tokexport.exporter.proof.verify import verify
from tokexport.exporter.report.picks import Picks
from tokexport.exporter.report.stages import followed
from tokexport.graph_passes.ir_tools.model_io import load_model
from tokexport.runtimes.bundle.manifest import Manifest
from tokexport.runtimes.bundle.reader import open_bundle
from tokexport.runtimes.generate import begin
from tokexport.runtimes.media.encoder_input import encoder_input
from tokexport.runtimes.ort.graph import ort_runner

pytest.importorskip("transformers")

LENGTHS = {"prompt_length": 24, "answer_length": 20}
QUESTION = "What is in w17 w18 ?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoints.whole_llava(tmp_path_factory.mktemp("checkpoints") / "deep", depth=3, loud=True)


@pytest.fixture(scope="module")
def bundle(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FastV's half behind the second layer, by the command."""
    out = tmp_path_factory.mktemp("bundles") / "b"
    asked = ["--method", "cls_topk", "--seam", "decoder_layer:1", "--ratio", "0.5", "-o", str(out)]
    result = CliRunner().invoke(main, ["model", str(folder), *asked, "--prompt-length", "24", "--answer-length", "20"])
    assert result.exit_code == 0, result.output
    return out


def test_inspect_names_the_seams_in_the_language_model(folder):
    result = CliRunner().invoke(main, ["inspect", str(folder)])
    assert result.exit_code == 0 and "seams in the language model: decoder_layer:0 to decoder_layer:1" in result.output
    told = json.loads(CliRunner().invoke(main, ["inspect", str(folder), "--json"]).stdout)
    assert told["language_model"] == "decoder_layer:0 to decoder_layer:1"


def test_every_part_is_proved_and_answers_are_those_of_transformers(bundle):
    checks = json.loads((bundle / "parity.json").read_text())["checks"]
    assert all(check["ok"] for check in checks)
    (answers,) = [check for check in checks if check["part"] == "generation"]
    compared, distinct = re.fullmatch(r"(\d+) tokens of 3 answers .* (\d+) distinct", answers["detail"]).groups()
    assert int(compared) > 20 and int(distinct) > 5
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
    assert variant["generation"]["kv_capacity"] == [24 + 36 + 20] * 2 + [24 + 18 + 20]


def test_other_picks_than_transformers_fail_the_proof(bundle):
    """The stored picks of the model's own code, all but two of them moved."""
    opened = open_bundle(bundle)
    variant, probes = opened.variant(), [probe for probe in of_bundle(opened) if probe.part == "generation"]
    models = {role: load_model(bundle / graph.forms["portable"]) for role, graph in variant.graphs.items()}
    assert check_answers(probes, variant, models, ort_runner, "fp32")[0].ok
    for probe in probes:
        kept = probe.expected["kept_indices_1"]
        probe.expected["kept_indices_1"] = np.setdiff1d(np.arange(36), kept[0, 2:])[None, : kept.shape[1]]
    (found,) = check_answers(probes, variant, models, ort_runner, "fp32")
    assert not found.ok and "of 18 picks of kept_indices_1 differ" in found.detail


def test_tokens_are_followed_into_the_language_model(bundle, tmp_path, monkeypatch):
    """In the pictures of `show` and of the report: those that prefill keeps."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.random.default_rng(5).integers(0, 255, (84, 84, 3), dtype=np.uint8)).save("a.png")
    asked = ["show", str(bundle), "--image", "a.png", "-o"]
    plain = CliRunner().invoke(main, [*asked, "a.png.png"])
    assert "what is left behind decoder_layer:1 depends on the question: add --prompt" in plain.output
    told = CliRunner().invoke(main, [*asked, "a.svg", "--prompt", QUESTION])
    assert "1. cls_topk at decoder_layer:1: 36 → 18: 36 tokens become 18, 18 dropped" in told.output, told.output
    assert "18 of 36 tokens" in Path("a.svg").read_text(encoding="utf-8")
    assert "1. cls_topk at decoder_layer:1: 36 → 18" in (bundle / "report.html").read_text(encoding="utf-8")
    session = tokexport.load(bundle)
    pixels = encoder_input("a.png", session.preprocess, bundle)
    encoded, ids = session.encode(pixels), session.ids(QUESTION)
    (stage,) = followed(session, pixels, Picks.of(encoded), QUESTION)
    kept = begin(session.run, session.variant, encoded, [ids]).state["kept_indices_1"]
    assert stage.picks.kept.tolist() == kept[0].tolist() and len(set(kept[0].tolist())) == 18


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda variant: variant["graphs"]["decode"]["inputs"].pop("token_bias_1"), "`decode` has no 'token_bias_1'"),
        (lambda variant: variant["graphs"]["prefill"]["outputs"].pop("kept_indices_1"), "has no 'kept_indices_1'"),
        (lambda variant: variant["compression"][-1].update(tokens_out=9), r"\[B, 9\], of compressor 1"),
        (lambda variant: variant["compression"][0].update(tokens_out=0), "uniform leaves no token in front"),
        (lambda variant: variant["generation"]["kv_capacity"].reverse(), "80 slots, and kv_capacity says 62"),
    ],
)
def test_a_manifest_whose_graphs_do_not_do_that_is_refused(bundle, spoil, why):
    told = json.loads((bundle / "manifest.json").read_text())
    spoil(told["variants"][0])
    with pytest.raises(ValidationError, match=why):
        Manifest.model_validate(told)


def test_a_bundle_answers_a_question_as_its_folder_does(folder, bundle):
    """From pixels, for a question that the proof did not ask, through the runtime's own caches."""
    session = tokexport.load(bundle)
    pixels = np.random.default_rng(5).integers(0, 255, (84, 84, 3), dtype=np.uint8)
    ids = session.ids(QUESTION)
    source = cut(folder, ("decoder_layer:1", 18))
    source.prompts = lambda n, images=1: [ids] * n
    encoded = session.encode(pixels)
    own = source.own_answer(encoded, np.zeros((1, 36), np.float32), 20)
    said = session.generate(pixels, QUESTION).ids
    assert len(set(said)) > 5 and said == [i for i in own.ids if i != 2]


def test_each_attention_is_that_of_the_models_own_code(folder):
    """Of the last id, of the words, of those that rate, and the largest: four choices, each as by eager attention."""
    found = {}
    for name in ("cls", "words", "raters", "peak"):
        kept, own = picks(cut(folder, ("decoder_layer:1", 9), attention=name))
        assert kept == own, name
        found[name] = tuple(kept)
    assert len(set(found.values())) == 4


def test_sparsevlm_is_hooked_between_the_layers(folder):
    kept, own = picks(cut(folder, ("decoder_layer:1", 18), method="sparsevlm", scores="attention"))
    best, _ = picks(cut(folder, ("decoder_layer:1", 17), attention="raters"))
    assert kept == own and set(best) < set(kept)


def test_holitom_blends_between_the_layers_too(folder):
    kept, own = picks(cut(folder, ("decoder_layer:1", 18), method="holitom_inner"))
    assert kept == own


@pytest.mark.parametrize(
    ("seams", "why"),
    [
        (["decoder_layer:2"], "Take decoder_layer:0 to decoder_layer:1"),
        (["decoder_layer:1", "decoder_layer:1"], "one at a layer"),
        (["decoder_layer:1", "decoder_layer:0"], "from front to back"),
        (["decoder_layer:5/4"], "decoder_layer:1/4"),
    ],
)
def test_seams_that_are_none_are_refused(folder, seams, why):
    with pytest.raises(RequestError, match=why):
        cut(folder, *((seam, 18 - number) for number, seam in enumerate(seams)))


@pytest.mark.parametrize("method", ["tome", "sparsevlm", "pixel_unshuffle", "qformer"])
def test_methods_that_need_what_is_not_there_are_refused(folder, method):
    advice = "--set scores=attention" if method == "sparsevlm" else "cls_topk"
    with pytest.raises(RequestError, match=rf"decoder_layer:1: it .*{advice}"):
        cut(folder, ("decoder_layer:1", 9), method=method)


def test_what_is_left_behind_nothing_is_refused(folder):
    with pytest.raises(RequestError, match="nothing is left behind seam decoder_layer:0"):
        cut(folder, ("decoder_layer:0", 0), ("decoder_layer:1", 0))


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["model", "--method", "fastv", "--ratio", "0.5"], "Write --recipe fastv"),
        (["model", "--recipe", "fastv"], "tiny-vlm has none that can be parted there"),
        (["model", "--recipe", "fastv", "--parts", "encoder"], "Leave --parts out"),
        (["model", "--method", "topk", "--keep", "9", "--seam", "decoder_layer:0", "--rebuild"], "Leave rebuild out"),
        (["sweep", "--method", "topk", "--ratio", "0.5", "--seam", "decoder_layer:0"], "tokexport model SOURCE"),
    ],
)
def test_where_it_cannot_be_had_the_command_says_what_can(arguments, why, tmp_path):
    result = CliRunner().invoke(main, [*arguments, "-o", str(tmp_path / "b")])
    assert result.exit_code == 2 and why in " ".join(result.stderr.split())


STEPS = """
[[steps]]
method = "apet"
seam = "projector_output"
keep = 24
params = { basis = 4 }

[[steps]]
method = "apet"
seam = "decoder_layer:1/4"
ratio = "1/2"
params = { basis = 4 }

[[steps]]
method = "kcenter_merge"
seam = "decoder_layer:1/2"
ratio = "1/2"

[[steps]]
method = "uniform"
seam = "decoder_layer:3/4"
keep = 0
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_merged_tokens_keep_their_weight_through_several_cuts_down_to_none(kind, tmp_path):
    """Merged in front of the language model, twice inside it, and then removed."""
    folder = tiny_checkpoints.whole_llava(tmp_path / kind, kind=kind, depth=4, loud=True)
    (tmp_path / "steps.toml").write_text(STEPS)
    made = tokexport.export(str(folder), tmp_path / "b", recipe=tmp_path / "steps.toml", **LENGTHS)
    answers = made.proof["checks"][-1]
    assert answers["part"] == "generation" and answers["ok"] and "60 tokens of 3 answers" in answers["detail"]
    assert any(check["tensor"] == "token_bias_2" and check["part"] == "prefill" for check in made.proof["checks"])
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    assert manifest["variants"][0]["generation"]["kv_capacity"] == [44 + count for count in (24, 12, 6, 0)]


@pytest.mark.slow
def test_sparsevlm_whole(tmp_path):
    """Its three stages, clusters in each, by the recipe."""
    folder = tiny_checkpoints.whole_llava(tmp_path / "deep", depth=5, loud=True)
    made = tokexport.export(str(folder), tmp_path / "b", recipe="sparsevlm-192", **LENGTHS)
    answers = made.proof["checks"][-1]
    assert answers["part"] == "generation" and answers["ok"]
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    assert manifest["variants"][0]["generation"]["kv_capacity"] == [44 + count for count in (36, 19, 12, 6, 6)]


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"precision": "fp16"}, {"precision": "bf16"}, {"llm_weights": "int8"}])
def test_other_types_of_weights(settings, tmp_path):
    folder = tiny_checkpoints.whole_llava(tmp_path / "quiet", depth=4)
    asked = {"method": "cls_topk", "seam": "decoder_layer:1", "ratio": "0.5", **LENGTHS, **settings}
    made = tokexport.export(str(folder), tmp_path / "b", **asked)
    assert all(check["ok"] for check in made.proof["checks"])
    if settings.get("precision") != "bf16":
        assert verify(tmp_path / "b")["ok"]
