"""`tokexport debug` against engines that a real TensorRT builds of the graph, whole and in parts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tokexport.graph_passes.ir_tools.extract import between
from tokexport.runtimes.ort.graph import ort_runner
from tokexport.runtimes.tensorrt.api import KINDS, Kind, version_of
from tokexport.runtimes.tensorrt.cuda import gpu_here
from tokexport.runtimes.tensorrt.rtx import SMS

sys.path.insert(0, str(Path(__file__).parents[1] / "exporter"))
from toy_debug import TOKENS, layer, saved

TOKEXPORT = Path(sys.executable).with_name("tokexport")
WORDS: dict[Kind, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "rtx"}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    if gpu_here() is None:
        pytest.skip("engines on a GPU: cuda-bindings is not installed, or sees no GPU")
    found: Kind = request.param
    if version_of(found) is None:
        pytest.skip(f"engines on a GPU: {found} is not installed")
    if found == "tensorrt-rtx" and (gpu_here() or "").replace(".", "") not in SMS:
        pytest.skip(f"engines on a GPU: TensorRT-RTX does not build for compute capability {gpu_here()}")
    return found


def test_an_engine_of_the_same_graph_agrees(kind: Kind, tmp_path: Path) -> None:
    path = saved(layer(), tmp_path / "right.onnx")
    done = subprocess.run([TOKEXPORT, "debug", path, "--against", WORDS[kind]], capture_output=True, text=True)
    assert done.returncode == 0 and "agree" in done.stdout, f"{done.stdout}\n{done.stderr}"


def test_a_part_in_an_engine_of_its_own(kind: Kind) -> None:
    from tokexport.runtimes.tensorrt.loose import LooseEngines

    model = between(layer(), ["scores"], ["weights"])
    feeds = {"scores": np.random.default_rng(0).standard_normal((1, TOKENS, TOKENS, TOKENS)).astype(np.float32)}
    got = LooseEngines(kind).build(model).run(feeds)["weights"]
    assert np.abs(got - ort_runner(model)(feeds)["weights"]).max() < 1e-5
