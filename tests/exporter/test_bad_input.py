"""What bad input gets, through the command line: its exit code, one paragraph that says what to do, nothing written."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import parser
from tokexport.exporter.cli import main

TOKEXPORT = Path(sys.executable).with_name("tokexport")

PLAIN = """<ir_version: 10, opset_import: ["" : 18]>
toy (float[{batch},{n},8] x) => (float[{batch},{n},4] y)
<float[8,4] w>
{{ features = Tanh (x)  y = MatMul (features, w) }}"""

# Everything behind `features` mixes tokens by a fixed length: the position table has one row for each of 12 tokens.
FIXED = """<ir_version: 10, opset_import: ["" : 18]>
toy (float[1,12,8] x) => (float[1,12,8] y)
<float[1,12,8] positions>
{ features = Tanh (x)
  y = Add (features, positions) }"""


def save(text: str, path: Path, **arrays: np.ndarray) -> Path:
    model = parser.parse_model(text)
    del model.graph.initializer[:]
    for name, array in arrays.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    for i, node in enumerate(model.graph.node):
        node.name = f"node_{i}_{node.op_type}"
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("features", 1, [1, 12, 8]))
    onnx.save(model, path)
    return path


def plain(path: Path, batch: str = "1", n: str = "12") -> Path:
    return save(PLAIN.format(batch=batch, n=n), path, w=np.random.default_rng(0).standard_normal((8, 4)))


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """Run the command; assert the exit code, one paragraph with all the words, and an untouched folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, says: tuple[str, ...], code: int = 2) -> str:
        before = snapshot(tmp_path)
        result = CliRunner().invoke(main, [str(a) for a in arguments])
        assert result.exit_code == code, result.output
        assert result.stderr.count("\n") == 1 and "Traceback" not in result.output, result.output
        for words in says:
            assert words in result.stderr, result.stderr
        assert snapshot(tmp_path) == before
        assert not list(tmp_path.glob(".*tokexport*"))
        return result.stderr

    return run


def test_an_unknown_method_gets_the_nearest_names(refused):
    refused("model", "--method", "appet", "--ratio", "0.85", says=("'appet'", "Did you mean apet?", "kcenter_merge"))


@pytest.mark.parametrize("ratio", ["0", "1", "-0.5", "1.5", "abc", "nan"])
def test_a_ratio_outside_0_and_1(refused, ratio):
    refused("model", "--method", "apet", "--ratio", ratio, says=(f"{ratio}", "0.85"))


def test_85_for_085_says_what_was_meant(refused):
    refused("model", "--method", "apet", "--ratio", "85", says=("ratio 85", "write --ratio 0.85"))


def test_keep_above_n(refused):
    refused("model", "--method", "topk", "--keep", "145", says=("keep 145", "144"))


def test_k_not_above_the_basis(refused):
    refused("model", "--method", "apet", "--keep", "10", says=("10", "basis", "11"))


def test_both_ratio_and_keep(refused):
    refused("model", "--method", "apet", "--ratio", "0.85", "--keep", "21", says=("both", "--keep"))


def test_neither_ratio_nor_keep(refused):
    refused("model", "--method", "apet", says=("neither", "--ratio 0.85"))


def test_an_unknown_parameter_lists_the_known(refused):
    refused("model", "--method", "apet", "--ratio", "0.5", "--set", "basi=3", says=("'basi'", "Did you mean basis"))


@pytest.mark.parametrize("setting", ["basis=0", "basis=ten", "start=middle", "ridge=-1"])
def test_a_parameter_out_of_range(refused, setting):
    name, value = setting.split("=")
    refused("model", "--method", "apet", "--ratio", "0.5", "--set", setting, says=(name, value))


@pytest.mark.parametrize("setting", ["basis", "=3"])
def test_a_setting_that_is_none(refused, setting):
    refused("model", "--method", "apet", "--ratio", "0.5", "--set", setting, says=("KEY=VALUE", "--set basis=16"))


def test_a_seam_that_does_not_exist_lists_those_that_do(refused):
    refused("model", "--method", "topk", "--keep", "9", "--seam", "encodr_output",
            says=("'encodr_output'", "encoder_output", "projector_input", "encoder_layer:0"))  # fmt: skip


def test_a_tensor_that_does_not_exist(refused, tmp_path):
    file = plain(tmp_path / "m.onnx")
    refused(
        "model", file, "--method", "uniform", "--keep", "3", "--seam", "tensor:featurs", says=("featurs", "features")
    )


def test_a_signal_that_the_seam_lacks_names_methods_that_work(refused, tmp_path):
    file = plain(tmp_path / "m.onnx")
    refused("model", file, "--method", "topk", "--keep", "3", "--seam", "tensor:features",
            says=("cls_attention", "apet", "kcenter_merge"))  # fmt: skip


def test_a_dynamic_token_axis_says_how_to_fix_it(refused, tmp_path):
    file = plain(tmp_path / "m.onnx", n="tokens")
    model = onnx.load(file)
    del model.graph.value_info[:]
    onnx.save(model, file)
    refused("model", file, "--method", "uniform", "--keep", "3", "--seam", "tensor:features",
            says=("make_dynamic_shape_fixed", "--input_name x"))  # fmt: skip


def test_a_graph_whose_rest_cannot_live_with_fewer_tokens(refused, tmp_path):
    file = save(FIXED, tmp_path / "m.onnx", positions=np.random.default_rng(0).standard_normal((1, 12, 8)))
    refused("model", file, "--method", "uniform", "--keep", "3", "--seam", "tensor:features",
            says=("node_1_Add", "positions"))  # fmt: skip


@pytest.mark.parametrize("content", [b"", b"no model", None])
def test_a_truncated_or_foreign_file(refused, tmp_path, content):
    file = plain(tmp_path / "m.onnx")
    file.write_bytes(file.read_bytes()[:-40] if content is None else content)
    refused("model", file, "--method", "apet", "--ratio", "0.5", says=("m.onnx",))


def test_missing_external_data_is_named(refused, tmp_path):
    file = plain(tmp_path / "m.onnx")
    onnx.save(onnx.load(file), file, save_as_external_data=True, location="m.data", size_threshold=0)
    (tmp_path / "m.data").unlink()
    refused("model", file, "--method", "apet", "--ratio", "0.5", says=("m.data", "missing"))


def test_a_source_that_is_nothing(refused):
    refused("model", "tiny-vml", "--method", "apet", "--ratio", "0.5", says=("tiny-vml", "Did you mean tiny-vlm?"))


def test_a_folder_without_config(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    refused("model", "empty", "--method", "apet", "--ratio", "0.5", says=("config.json",))


def test_a_folder_without_weights(refused, tmp_path):
    (tmp_path / "llava").mkdir()
    (tmp_path / "llava/config.json").write_text(json.dumps({"model_type": "llava"}))
    refused("model", "llava", "--method", "apet", "--ratio", "0.5", says=("weights", ".safetensors"))


def test_an_unknown_architecture_lists_the_known(refused, tmp_path):
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert/config.json").write_text(json.dumps({"model_type": "bert"}))
    refused(
        "model", "bert", "--method", "apet", "--ratio", "0.5", says=("bert", "LlavaForConditionalGeneration", "Whisper")
    )


def test_an_output_folder_that_is_not_empty(refused, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    refused("model", "--method", "apet", "--ratio", "0.5", "-o", "mine", says=("thesis.txt", "--force"))


def test_an_output_folder_that_cannot_be_written(refused):
    refused("model", "--method", "apet", "--ratio", "0.5", "-o", "/proc/out", says=("/proc", "-o"))


def test_nan_in_activations_names_the_tensor(refused, tmp_path):
    file = plain(tmp_path / "m.onnx")
    model = onnx.load(file)
    model.graph.node[0].op_type = "Log"
    onnx.save(model, file)
    refused("model", file, "--method", "uniform", "--keep", "3", "--seam", "tensor:features",
            says=("NaN", "features", "[1, 12, 8]"))  # fmt: skip


def test_a_missing_package_exits_3_with_its_command(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "onnxscript" else real(name, *a))
    monkeypatch.setattr("tokexport.exporter.torch_export.find_spec", importlib.util.find_spec)
    refused("model", "--method", "apet", "--ratio", "0.5", says=("onnxscript", "pip install"), code=3)


def test_a_low_accuracy_exits_1_and_keeps_the_result_aside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(
        main, ["model", "--method", "uniform", "--keep", "1", "--min-accuracy", "0.99", "-o", "out"]
    )
    assert result.exit_code == 1, result.output
    assert "below --min-accuracy 0.99" in result.stderr and "out.failed" in result.stderr
    assert not (tmp_path / "out").exists() and (tmp_path / "out.failed/manifest.json").is_file()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """A small bundle, made once; tests work on copies."""
    folder = tmp_path_factory.mktemp("bundles")
    file = plain(folder / "m.onnx")
    arguments = [
        "model",
        file,
        "--method",
        "kcenter_merge",
        "--keep",
        "3",
        "--seam",
        "tensor:features",
        "-o",
        folder / "b",
    ]
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return folder / "b"


def spoil(kind: str, folder: Path) -> tuple[str, ...]:
    manifest = json.loads((folder / "manifest.json").read_text())
    data = bytearray((folder / "encoder.onnx").read_bytes())
    if kind == "hash":
        data[-1] ^= 1
        (folder / "encoder.onnx").write_bytes(data)
        return "encoder.onnx", "changed"
    if kind == "size":
        (folder / "encoder.onnx").write_bytes(data[:-1])
        return "encoder.onnx", f"{len(data) - 1} bytes, not {len(data)}"
    if kind == "missing":
        (folder / "encoder.onnx").unlink()
        return "encoder.onnx", "missing"
    manifest |= {"schema": {"schema": "2.0"}, "key": {"colour": 1}}[kind]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return ("2.0", "pip install -U tokexport") if kind == "schema" else ("'colour'", "manifest.json")


@pytest.mark.parametrize("kind", ["hash", "size", "missing", "key"])
def test_a_damaged_bundle_is_not_verified(refused, bundle, tmp_path, kind):
    shutil.copytree(bundle, tmp_path / "b")
    refused("verify", "b", says=spoil(kind, tmp_path / "b"))


def test_a_bundle_of_a_newer_schema_says_how_to_read_it(refused, bundle, tmp_path):
    shutil.copytree(bundle, tmp_path / "b")
    manifest = json.loads((tmp_path / "b/manifest.json").read_text())
    (tmp_path / "b/manifest.json").write_text(json.dumps({**manifest, "schema": "2.0"}))
    refused("verify", "b", says=("2.0", "pip install -U tokexport"))


def test_a_failed_request_leaves_an_older_bundle_untouched(refused, bundle, tmp_path):
    shutil.copytree(bundle, tmp_path / "b")
    file = plain(tmp_path / "m.onnx")
    refused("model", file, "--method", "apet", "--keep", "3", "--seam", "tensor:features", "-o", "b", says=("basis",))


def test_running_a_bundle_without_language_graphs(refused, bundle, tmp_path):
    shutil.copytree(bundle, tmp_path / "b")
    refused("run", "b", "--image", "x.png", "--prompt", "hello ?", says=("no language graphs", "--parts all"))


def test_a_full_disk_leaves_nothing_behind(tmp_path):
    """A limit on the size of files stands for the full disk: the kernel refuses the write in the same place."""
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)); "
        "sys.argv = ['tokexport', 'model', '--method', 'uniform', '--keep', '9', '-o', 'out']; "
        "from tokexport.exporter.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "disk is full" in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("delay", [1.0, 2.5, 5.0])
def test_ctrl_c_in_the_middle_leaves_the_old_bundle(bundle, tmp_path, delay):
    shutil.copytree(bundle, tmp_path / "out")
    before = snapshot(tmp_path)
    command = [TOKEXPORT, "model", "--method", "apet", "--ratio", "0.85", "-o", "out"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert snapshot(tmp_path) == before and [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("share", ["nan", "85", "-1"])
def test_a_least_accuracy_outside_0_and_1(refused, share):
    refused("model", "--method", "uniform", "--keep", "9", f"--min-accuracy={share}", says=("outside 0..1", "0.95"))


@pytest.mark.parametrize("keep", ["0", "-3"])
def test_keep_below_1(refused, keep):
    refused("model", "--method", "uniform", f"--keep={keep}", says=(f"keep {keep} leaves no token", "--keep 1"))


@pytest.mark.parametrize("prompt", ["", " \t"])
def test_an_empty_prompt(refused, bundle, prompt):
    refused("run", bundle, "--image", "i.png", "--prompt", prompt, says=("the prompt is empty", "--prompt"))
