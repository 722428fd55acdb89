"""What a Jetson needs works without importing torch or transformers; these tests run alone on Python 3.10 too."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

TOKEXPORT = Path(sys.executable).with_name("tokexport")
HEAVY = ("torch", "transformers", "onnxruntime", "onnxscript", "onnx_graphsurgeon", "matplotlib")


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def toy(path: Path, n: int = 12, dim: int = 8) -> Path:
    """tokens [1, n, dim] -> Gelu-like body -> linear projector."""
    rng = np.random.default_rng(0)
    weight = helper.make_tensor("w", TensorProto.FLOAT, [dim, 4], rng.standard_normal(dim * 4).astype(np.float32))
    nodes = [
        helper.make_node("Tanh", ["x"], ["features"], name="body"),
        helper.make_node("MatMul", ["features", "w"], ["y"], name="projector"),
    ]
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, n, dim])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, n, 4])],
        [weight],
        value_info=[helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, n, dim])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def test_importing_the_lower_rooms_loads_nothing_heavy():
    code = f"""
import importlib, pkgutil, sys
import tokexport
for room in ("devices", "graph_passes", "plugins", "runtimes"):
    package = importlib.import_module("tokexport." + room)
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("_worker"):
            importlib.import_module(module.name)
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    assert python(code).strip() == "[]"


def test_importing_tokexport_loads_no_package_at_all():
    code = "import sys; before = set(sys.modules); import tokexport; print(sorted(set(sys.modules) - before))"
    assert "onnx" not in python(code) and "numpy" not in python(code)


def test_the_table_of_methods_needs_no_numpy():
    code = "import sys, tokexport; tokexport.methods(); print('numpy' in sys.modules)"
    assert python(code).strip() == "False"


@pytest.mark.parametrize("arguments", [["--help"], ["methods"]])
def test_help_and_methods_answer_within_a_third_of_a_second(arguments):
    # As for a user: compiled once, by the first run.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    seconds = []
    # Whatever else this machine does meanwhile: the fastest run is the command's own time.
    for _ in range(24):
        start = time.perf_counter()
        subprocess.run([TOKEXPORT, *arguments], check=True, capture_output=True, env=environment)
        seconds.append(time.perf_counter() - start)
        if seconds[-1] < 0.3:
            return
    pytest.fail(f"fastest of {len(seconds)} runs took {min(seconds):.2f} s")


def test_compress_edits_a_graph_and_onnxruntime_runs_it(tmp_path):
    import onnx_ir as ir
    import onnxruntime
    import tokexport

    model = tokexport.compress(str(toy(tmp_path / "toy.onnx")), method="kcenter_merge", keep=5, seam="tensor:features")
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    x = np.random.default_rng(1).standard_normal((1, 12, 8)).astype(np.float32)
    names = [output.name for output in session.get_outputs()]
    results = dict(zip(names, session.run(None, {"x": x})))
    assert results["y"].shape == (1, 5, 4)
    assert results["sizes"].sum() == 12


def test_methods_as_json():
    done = subprocess.run([TOKEXPORT, "methods", "--json"], check=True, capture_output=True, text=True)
    assert {"apet", "kcenter_merge", "topk", "random", "uniform"} <= {row["name"] for row in json.loads(done.stdout)}


def test_the_doctor_and_the_devices_answer_and_load_nothing_heavy():
    code = f"""
import sys
from click.testing import CliRunner
from tokexport.exporter.cli import main
for command in (["doctor", "--json"], ["devices"], ["devices", "orin-nano-8gb"]):
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    assert python(code).strip() == "[]"


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="torch is installed here")
def test_exporting_without_torch_says_what_to_install(tmp_path):
    command = [TOKEXPORT, "model", "--method", "apet", "--ratio", "0.85", "-o", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"}, check=False)
    assert done.returncode == 3
    assert 'pip install "tokexport[export]"' in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
