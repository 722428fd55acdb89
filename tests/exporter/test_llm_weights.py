"""Language graphs with quantised weights: the command, what the bundle says of them, and when they are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_checkpoints
import tokexport
from click.testing import CliRunner
from tokexport.exporter.cli import main
from tokexport.runtimes.bundle.reader import open_bundle

pytest.importorskip("transformers")
SHORT = ["--prompt-length", "16", "--answer-length", "8"]


def command(*arguments: object, code: int = 0) -> str:
    """What the command prints on stdout, or of a failure on stderr."""
    result = CliRunner().invoke(main, [*map(str, arguments)])
    assert result.exit_code == code, result.output
    return " ".join((result.stderr if code else result.stdout).split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny_checkpoints.whole_llava(tmp_path_factory.mktemp("checkpoints") / "tiny-llava")


@pytest.fixture(scope="module")
def made(folder, tmp_path_factory) -> tuple[Path, str]:
    """The bundle, and what the command said."""
    out = tmp_path_factory.mktemp("bundles") / "int8"
    asked = ("--method", "kcenter_merge", "--keep", 12, "--keep", 9, "--llm-weights", "int8", *SHORT)
    return out, command("model", folder, *asked, "--min-agreement", 0.5, "-o", out)


@pytest.fixture(scope="module")
def bundle(made) -> Path:
    return made[0]


def test_the_bundle_says_what_was_measured(made):
    bundle, said = made
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["schema"] == "2.1"
    for variant in manifest["variants"]:
        weights = variant["llm_weights"]
        assert {key: weights[key] for key in ("weights", "form", "block_size")} == {
            "weights": "int8",
            "form": "MatMulNBits",
            "block_size": 32,
        }
        assert 6 <= weights["words"] <= 24
        assert 0.5 <= weights["agreement"] <= 1
        told = f"{weights['agreement']:.1%} of {weights['words']} words are the same, perplexity"
        assert told in said
        assert f"{weights['perplexity']:.4g} (float {weights['float_perplexity']:.4g})" in said
    assert not [path for path in bundle.iterdir() if path.name.startswith(".")]


def test_float_graphs_are_proved_and_quantised_ones_are_kept(bundle):
    proof = json.loads((bundle / "parity.json").read_text())
    parts = {check["part"] for check in proof["checks"]}
    assert {"embed", "prefill", "decode", "generation", "agreement"} <= parts
    import onnx

    graphs = {role: onnx.load(bundle / f"{role}.onnx") for role in ("embed", "prefill", "decode")}
    ops = {role: {node.op_type for node in model.graph.node} for role, model in graphs.items()}
    assert "GatherBlockQuantized" in ops["embed"]
    assert "MatMulNBits" in ops["prefill"] & ops["decode"]


def test_all_variants_read_the_same_weights(bundle):
    import onnx

    graphs = {path.name: onnx.load(path, load_external_data=False) for path in bundle.glob("*.onnx")}
    places = {
        name: {tuple((e.key, e.value) for e in one.external_data) for one in model.graph.initializer}
        for name, model in graphs.items()
    }
    one, other = places["decode.onnx"] - {()}, places["decode.kcenter_merge-keep9.onnx"] - {()}
    assert len(one & places["prefill.onnx"]) > 10
    assert len(one & other) > 10
    assert one & places["embed.onnx"]


def test_it_is_proved_again_and_answers(bundle):
    result = json.loads(command("verify", bundle, "--json"))
    assert result["ok"]
    for one in (result, *result["further"]):
        assert {"generation", "agreement"} <= {check["part"] for check in one["checks"]}
        assert not {"embed", "prefill", "decode"} & {check["part"] for check in one["checks"]}
    session = tokexport.load(bundle)
    assert session.generate(np.zeros((84, 84, 3), np.uint8), "What is in the picture?").ids


def changed(bundle: Path, out: Path, change) -> Path:
    """A copy whose probes of the agreement are changed, and listed in the manifest as they are then."""
    import hashlib

    from tokexport.exporter.proof import probes as probe_file

    made = shutil.copytree(bundle, out)
    probes = probe_file.load(made / probe_file.FILE)
    content = probe_file.to_bytes(change(probes))
    (made / probe_file.FILE).write_bytes(content)
    manifest = json.loads((made / "manifest.json").read_text())
    record = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest["files"][probe_file.FILE] = record
    (made / "manifest.json").write_text(json.dumps(manifest))
    return made


def test_other_words_than_the_float_graphs_fail(bundle, tmp_path):
    def other(probes):
        for probe in probes:
            if probe.part == "agreement":
                probe.expected["likeliest"] = (probe.expected["likeliest"] + 1) % 96
        return probes

    result = CliRunner().invoke(main, ["verify", str(changed(bundle, tmp_path / "b", other))])
    assert result.exit_code == 1
    assert "0.0% of" in result.output.replace("\n", " ")


def test_a_proof_without_the_agreement_proves_nothing(bundle, tmp_path):
    without = changed(bundle, tmp_path / "b", lambda probes: [one for one in probes if one.part != "agreement"])
    assert "nothing that proves decode" in command("verify", without, code=2)


def test_texts_of_another_model_are_refused(bundle, tmp_path):
    def far(probes):
        next(one for one in probes if one.part == "agreement").expected["ids"][0] = 96
        return probes

    assert "not those of this model" in command("verify", changed(bundle, tmp_path / "b", far), code=2)


@pytest.fixture(scope="module")
def failed(folder, tmp_path_factory) -> tuple[Path, str]:
    """The result of an export for a device in which every word had to be the same, and what the command said."""
    out = tmp_path_factory.mktemp("bundles") / "int4"
    asked = ("--method", "uniform", "--keep", 9, "--llm-weights", "int4", *SHORT, "--device", "orin-nano-8gb")
    said = command("model", folder, *asked, "--min-agreement", 1, "-o", out, code=1)
    assert not out.exists()
    return out.with_name("int4.failed"), said


def test_too_little_agreement_fails_with_the_way_out(failed):
    bundle, said = failed
    assert "int4 weights: " in said
    assert "at least 100.0% must be" in said
    assert "Use --llm-weights int8. Or: Measure on your own data, and give a smaller --min-agreement" in said
    weights = open_bundle(bundle).variant().llm_weights
    assert (weights.weights, weights.form) == ("int4", "DequantizeLinear")
    assert weights.agreement < 1


def test_for_a_device_the_operators_are_standard(failed):
    bundle, _ = failed
    import onnx

    for role in ("prefill", "decode"):
        model = onnx.load(bundle / f"{role}.onnx")
        assert {one.domain for one in model.opset_import} == {""}
        assert model.opset_import[0].version == 21
        numbers = {one.name: one.data_type for one in model.graph.initializer}
        read = [node for node in model.graph.node if node.op_type == "DequantizeLinear"]
        assert read
        assert {numbers[node.input[0]] for node in read} == {onnx.TensorProto.INT4}
        assert {numbers[node.input[1]] for node in read} == {onnx.TensorProto.FLOAT16}
    assert tokexport.load(bundle).generate(np.zeros((84, 84, 3), np.uint8), "What is in the picture?").ids


def test_a_recogniser_hears_the_same(tmp_path):
    whisper = tiny_checkpoints.whisper(tmp_path / "tiny-whisper")
    out = tmp_path / "out"
    command("model", whisper, "--method", "uniform", "--ratio", "0.5", "--llm-weights", "int8", "-o", out)
    weights = open_bundle(out).variant().llm_weights
    assert weights.agreement >= 0.95
    assert tokexport.load(out).generate(np.zeros(16000, np.float32)).ids is not None


REFUSED = {
    "no language graphs": (["--parts", "encoder"], "exported without any"),
    "graphs that do not run here": (["--precision", "bf16"], "Use --precision fp16"),
    "nothing to hold": (["--min-agreement", "0.9"], "Add --llm-weights int4"),
    "nothing is proved": (["--llm-weights", "int4", "--no-verify", "--min-agreement", "0.9"], "Leave --no-verify out"),
    "no share": (["--llm-weights", "int4", "--min-agreement", "90"], "--min-agreement 0.95"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case, tmp_path):
    more, cure = REFUSED[case]
    weights = [] if "--min-agreement" in more else ["--llm-weights", "int8"]
    said = command("model", "--method", "uniform", "--ratio", "0.5", *weights, *more, "-o", tmp_path / "o", code=2)
    assert cure in said


def test_an_engine_needs_the_standard_form(bundle, tmp_path):
    assert "Export it again with --device NAME" in command("build", bundle, "--device", "rtx-4090", code=2)


def test_the_report_has_the_command_that_makes_it(bundle):
    assert "--llm-weights int8" in (bundle / "report.html").read_text()
