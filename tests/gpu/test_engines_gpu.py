"""Engines of a whole bundle on a real GPU: built, loaded, captured, proved part by part, and asked a question."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tokexport.runtimes.tensorrt.api import KINDS, version_of
from tokexport.runtimes.tensorrt.cuda import gpu_here
from tokexport.runtimes.tensorrt.rtx import SMS

TOKEXPORT = Path(sys.executable).with_name("tokexport")
RUNTIMES = {"tensorrt": "tensorrt", "tensorrt-rtx": "rtx"}
FORMS = ("portable", "inlined", "plugin")


def tokexport(*arguments: object) -> str:
    done = subprocess.run([TOKEXPORT, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module", params=[("apet", "fp32"), ("kcenter_merge", "fp16")], ids="-".join)
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny-vlm, all graphs."""
    if gpu_here() is None:
        pytest.skip("engines on a GPU: cuda-bindings is not installed, or sees no GPU")
    if not any(map(version_of, KINDS)):
        pytest.skip("engines on a GPU: neither TensorRT nor TensorRT-RTX is installed")
    method, precision = request.param
    folder = tmp_path_factory.mktemp("engines") / method
    tokexport("model", "--method", method, "--ratio", "0.85", "--precision", precision, "-o", folder)
    return folder


@pytest.fixture(scope="module", params=[(kind, form) for kind in KINDS for form in FORMS], ids="-".join)
def engines(request: pytest.FixtureRequest, bundle: Path) -> Path:
    """The bundle with engines of one kind and form."""
    kind, form = request.param
    if version_of(kind) is None:
        pytest.skip(f"engines on a GPU: {kind} is not installed")
    if kind == "tensorrt-rtx" and (gpu_here() or "").replace(".", "") not in SMS:
        pytest.skip(f"engines on a GPU: TensorRT-RTX does not build for compute capability {gpu_here()}")
    if form == "plugin":
        from tokexport.plugins.library import find

        if find(kernels_only=True) is None:
            pytest.skip("engines on a GPU: the plugin library is not built (tokexport plugins build)")
    done = json.loads(tokexport("build", bundle, "--runtime", RUNTIMES[kind], "--form", form, "--json"))
    looks = {look["stage"]: look["compared"] for engine in done["engines"] for look in engine["layers"]}
    assert looks.keys() == {"network", "engine"} and all(looks.values())
    return bundle


def test_every_part_is_proved(engines: Path) -> None:
    result = json.loads(tokexport("verify", engines, "--runtime", "tensorrt", "--json"))
    parts = {check["part"] for check in result["checks"] if check["ok"]}
    assert result["ok"] and parts == {"head", "compressor", "tail", "embed", "prefill", "decode"}


def test_engines_answer_like_onnxruntime_and_are_replayed(engines: Path) -> None:
    from tokexport.exporter.zoo.tiny_vlm.scenes import scene
    from tokexport.runtimes.load import load

    session, reference = load(engines, "tensorrt"), load(engines)
    rng, agreed = np.random.default_rng(3), 0
    for _ in range(32):
        drawn = scene(rng)
        prompt = f"is there a {drawn.objects[0].colour} {drawn.objects[0].shape} ?"
        image = np.asarray(drawn.image)
        agreed += session.generate(image, prompt).text == reference.generate(image, prompt).text
    # A rounding may flip a pick, and a pick a rare answer.
    assert agreed >= 31
    for role in session.variant.graphs:
        launches = session.graph(role).launches  # type: ignore[attr-defined]
        assert launches["captured"] and launches["replayed"] > 8, (role, launches, session.notes())


def test_two_runs_of_a_replayed_graph_give_the_same_bits(engines: Path) -> None:
    from tokexport.runtimes.load import load

    session = load(engines, "tensorrt")
    pixels = np.random.default_rng(0).normal(size=(1, 3, 96, 96)).astype(np.float32)
    runs = [session.encode(pixels)["tokens"].tobytes() for _ in range(4)]
    assert len(set(runs)) == 1
