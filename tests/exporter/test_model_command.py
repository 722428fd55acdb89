"""`tokexport model --method apet --ratio 0.85`, typed literally, and what its bundle can do."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from tokexport.exporter.cli import main
from tokexport.exporter.zoo.tiny_vlm.scenes import scene

TOKEXPORT = Path(sys.executable).with_name("tokexport")
LITERAL = ["model", "--method", "apet", "--ratio", "0.85"]


def tokexport(
    *arguments: object, folder: Path, code: int = 0, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    command = [TOKEXPORT, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """The folder in which the literal command was typed twice; the second time as JSON."""
    folder = tmp_path_factory.mktemp("work")
    first = tokexport(*LITERAL, folder=folder)
    (folder / "first.txt").write_text(first.stdout)
    second = tokexport(*LITERAL, "--json", folder=folder)
    (folder / "second.json").write_text(second.stdout)
    return folder


@pytest.fixture(scope="module")
def bundle(made) -> Path:
    return made / "tiny-vlm-apet-0.85"


def test_it_proves_every_part_and_says_where_the_bundle_is(made, bundle):
    text = (made / "first.txt").read_text()
    assert "144 -> 21 tokens" in text and "size bias on" in text
    for part in ("head", "compressor", "tail", "embed", "prefill", "decode"):
        assert re.search(rf"^\s*{part} .* ok", text, re.MULTILINE), text
    assert text.splitlines()[-1] == f"bundle: {bundle.name}"
    smaller = json.loads((made / "second.json").read_text())["accuracy"]["baselines"]["resolution"]
    assert smaller["keep"] == 16 and 0.3 < smaller["accuracy"] < 0.6
    assert f"; 16 tokens of a smaller picture {smaller['accuracy']:.1%})" in " ".join(text.split())


def test_typed_twice_it_replaces_the_bundle_and_json_is_the_whole_of_stdout(made, bundle):
    data = json.loads((made / "second.json").read_text())
    assert data["bundle"] == bundle.name and all(check["ok"] for check in data["proof"]["checks"])
    assert data["drift"]["kept_overlap"] == 1.0 and data["accuracy"]["questions"] == 512
    assert sorted(path.name for path in made.iterdir()) == ["first.txt", "second.json", bundle.name]


def test_kcenter_merge_at_85_percent_costs_nearly_nothing_with_the_bias_and_much_without(tmp_path):
    arguments = ["model", "--method", "kcenter_merge", "--ratio", "0.85", "--json"]
    on, off = (
        json.loads(tokexport(*arguments, "--size-bias", bias, "-o", bias, folder=tmp_path).stdout)["accuracy"]
        for bias in ("auto", "off")
    )
    assert on["uncompressed"] >= 0.98 and off["uncompressed"] == on["uncompressed"]
    assert on["compressed"] >= on["uncompressed"] - 0.02
    assert off["compressed"] <= on["compressed"] - 0.1


def test_verify_proves_it_again_without_torch(bundle, made):
    code = (
        "import sys; sys.modules['torch'] = None; "
        "import importlib.util as u; f = u.find_spec; "
        "import tokexport.exporter.proof.parity as p; p.find_spec = lambda n: None if n == 'torch' else f(n); "
        f"sys.argv = ['tokexport', 'verify', {str(bundle)!r}, '--json']; "
        "from tokexport.exporter.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["ok"] and {check["part"] for check in result["checks"]} >= {"head", "compressor", "tail", "decode"}


@pytest.mark.parametrize("role", ["encoder", "prefill"])
def test_verify_exits_1_when_a_weight_was_changed_with_a_right_hash(bundle, tmp_path, role):
    """The proof must see what a hash cannot: a wrong graph that was hashed after it went wrong."""
    import hashlib
    import shutil

    folder = tmp_path / "b"
    shutil.copytree(bundle, folder)
    data = folder / ("encoder.onnx.data" if role == "encoder" else "language.onnx.data")
    weights = np.fromfile(data, np.float32)
    weights[: len(weights) // 2] *= 1.01
    weights.tofile(data)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][data.name]["sha256"] = hashlib.sha256(data.read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    done = tokexport("verify", "b", folder=tmp_path, code=1)
    assert "FAILED" in done.stdout and "NOT PROVED" in done.stdout


def test_run_answers_a_question_about_an_image(bundle, tmp_path):
    drawn = scene(np.random.default_rng(5))
    (tmp_path / "scene.png").write_bytes(drawn.to_png())
    prompt = f"is there a {drawn.objects[0].colour} {drawn.objects[0].shape} ?"
    done = tokexport("run", bundle, "--image", "scene.png", "--prompt", prompt, "--json", folder=tmp_path)
    answer = json.loads(done.stdout)
    assert answer["text"] == "yes"
    assert len(answer["kept_indices"]) == 21 and sum(answer["sizes"]) > 21


@pytest.fixture
def copied(bundle, tmp_path) -> Path:
    """A bundle that engines can be put into."""
    return shutil.copytree(bundle, tmp_path / "b")


def test_tensorrt_rtx_builds_an_engine_of_every_graph(copied):
    pytest.importorskip("tensorrt_rtx")
    said = json.loads(
        tokexport("build", copied, "--device", "sm86", "--runtime", "rtx", "--json", folder=copied).stdout
    )
    assert [engine["role"] for engine in said["engines"]] == ["encoder", "embed", "prefill", "decode"]
    compared = {engine["role"]: engine["layers"][0]["compared"] for engine in said["engines"]}
    assert compared["encoder"] > 100 and compared["prefill"] > 100 and compared["decode"] > 100
    tokexport("verify", copied, folder=copied)


def test_engines_are_proved_part_by_part_and_answer_like_onnxruntime(copied, tmp_path):
    """On stand-ins for TensorRT and CUDA, which run an engine in ONNX Runtime: what is shown is our side of it."""
    stand_ins = Path(__file__).parents[1] / "runtimes" / "stand_ins"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(stand_ins), os.environ.get("PYTHONPATH", "")])}
    (tmp_path / "scene.png").write_bytes(scene(np.random.default_rng(5)).to_png())
    tokexport("build", copied, "--device", "orin-nano-8gb", "--runtime", "tensorrt", folder=copied, env=env)
    said = json.loads(tokexport("verify", copied, "--runtime", "tensorrt", "--json", folder=copied, env=env).stdout)
    assert said["ok"] and {"head", "compressor", "tail", "embed", "prefill", "decode"} == {
        check["part"] for check in said["checks"]
    }
    assert said["runtime"] == "tensorrt" and "3 parts of graphs were built as engines of their own" in said["notes"][0]
    assert said["notes"][1] == "end to end the encoder's engine keeps 100.0% of the tokens that PyTorch keeps"
    ask = ("run", copied, "--image", tmp_path / "scene.png", "--prompt", "what colour is the circle ?")
    answers = [tokexport(*ask, *extra, folder=copied, env=env).stdout for extra in ((), ("--runtime", "tensorrt"))]
    assert answers[0] == answers[1] and answers[0].strip()


def test_an_unknown_word_is_named(bundle, tmp_path):
    (tmp_path / "scene.png").write_bytes(scene(np.random.default_rng(5)).to_png())
    done = tokexport("run", bundle, "--image", "scene.png", "--prompt", "where is waldo ?", folder=tmp_path, code=2)
    assert "'where'" in done.stderr and "Did you mean 'there'" in done.stderr


def test_a_sound_for_a_model_that_looks_is_refused(bundle, tmp_path):
    error = tokexport("run", bundle, "--audio", "x.wav", "--prompt", "what", folder=tmp_path, code=2).stderr
    assert "the model takes images, not sound" in error and "--image" in error


def test_inspect_shows_the_compressor_and_the_seams(bundle):
    data = json.loads(tokexport("inspect", bundle / "encoder.onnx", "--json", folder=bundle).stdout)
    assert "the compressor 'add_8.apet' downstream" in json.dumps(data)
    assert any(seam["seam"] == "encoder_layer:0" for seam in data["seams"])


def test_the_plugin_graph_has_one_node_and_no_function(bundle):
    plugin = onnx.load(bundle / "encoder.plugin.onnx", load_external_data=False)
    (node,) = [node for node in plugin.graph.node if node.domain == "tokexport"]
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    assert node.op_type == "TokexportApet" and not plugin.functions
    assert attributes["keep"] == 21 and attributes["basis"] == 10 and attributes["plugin_namespace"] == b"tokexport"


def test_the_bundle_tells_nothing_of_the_machine_that_made_it(bundle):
    for path in bundle.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert str(Path.home()).encode() + b"/" not in content and b"site-packages" not in content, path
            assert str(bundle.parent).encode() not in content, path


def test_fp16_is_typed_and_proved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["--method", "kcenter_merge", "--keep", "36", "--precision", "fp16", "-o", "b", "--json"]
    done = CliRunner().invoke(main, ["model", *arguments])
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    assert all(check["ok"] for check in data["proof"]["checks"])
    assert any("proves types" in note for note in data["notes"])
    assert not any("fp32 island" in note for note in data["notes"])
    model = onnx.load(tmp_path / "b/encoder.onnx", load_external_data=False)
    kinds = [tensor.data_type for tensor in model.graph.initializer if np.prod(tensor.dims) > 4096]
    assert kinds and set(kinds) == {onnx.TensorProto.FLOAT16}


def test_an_in_encoder_seam_carries_the_size_bias_through_the_blocks_behind(tmp_path):
    arguments = ["--method", "kcenter_merge", "--keep", "36", "--seam", "encoder_layer:1", "--parts", "encoder"]
    done = tokexport("model", *arguments, "-o", "on", "--json", folder=tmp_path)
    data = json.loads(done.stdout)
    assert data["compression"][0]["size_bias"] and all(check["ok"] for check in data["proof"]["checks"])
    assert {check["part"] for check in data["proof"]["checks"]} == {"head", "compressor", "tail"}
    off = json.loads(
        tokexport("model", *arguments, "--size-bias", "off", "-o", "off", "--json", folder=tmp_path).stdout
    )
    assert not off["compression"][0]["size_bias"] and all(check["ok"] for check in off["proof"]["checks"])
    with_bias, without = (onnx.load(tmp_path / name / "encoder.onnx") for name in ("on", "off"))
    assert sum(node.op_type == "Log" for node in with_bias.graph.node) == 1
    assert not any(node.op_type == "Log" for node in without.graph.node)
