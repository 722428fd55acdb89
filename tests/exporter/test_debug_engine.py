"""`tokexport debug` against what shows no inner values: parts are cut at block boundaries, built and run.

The engine is a stand-in with a defect of its own: where a Where and the Softmax after it are in one engine, and nobody
asked for the value between them, they are fused, and the mask is lost.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from tokexport.exporter.debug import engine_side
from tokexport.exporter.debug.bisect import cuts
from tokexport.exporter.debug.onnx_side import OnnxSide
from tokexport.runtimes.ort.graph import ort_runner
from toy_debug import found, layer, saved, typed

pytest.importorskip("onnxruntime")


def fused(model: ir.Model) -> ir.Model:
    """What the defect makes of a graph."""
    model = model.clone()
    for node in model.graph:
        masked = node.inputs[0].producer() if node.op_type == "Softmax" and node.inputs[0] is not None else None
        if masked is not None and masked.op_type == "Where" and not masked.outputs[0].is_graph_output():
            node.replace_input_with(0, masked.inputs[1])
    return model


class Engine:
    def __init__(self, model: ir.Model) -> None:
        self.run = ort_runner(fused(model))
        sides = (model.graph.inputs, model.graph.outputs)
        self.inputs, self.outputs = (
            {value.name: SimpleNamespace(dtype=value.dtype.numpy(), shape=tuple(value.shape)) for value in values}
            for values in sides
        )


class Engines:
    built = 0

    def __str__(self) -> str:
        return "TensorRT 10.3.0"

    def load(self, path: Path) -> Engine:
        return Engine(ir.load(path.with_suffix(".onnx")))

    def build(self, model: ir.Model) -> Engine:
        Engines.built += 1
        return Engine(model)


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Engines]]:
    monkeypatch.setattr(engine_side, "_engines", lambda text, other: Engines())
    Engines.built = 0
    yield Engines


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engine")
    (folder / "right.engine").touch()
    return saved(layer(), folder / "right.onnx")


@pytest.mark.parametrize("engine", ["file", "built"])
def test_the_fusion_that_fails_is_cut_out_of_an_engine(engine: str, tensorrt: Any, right: Path, tmp_path: Path) -> None:
    against = right.with_suffix(".engine") if engine == "file" else "tensorrt"
    graph = found(right, "--against", against, "-o", tmp_path / "out")
    assert graph["first"]["value"] == "weights" and graph["first"]["how"] == "parts"
    model = ir.load(tmp_path / "out" / "b.onnx")
    # Less gives the Where its condition. Neither node fails alone.
    assert [node.op_type for node in model.graph] == ["Less", "Where", "Softmax"]
    assert graph["piece"]["nodes"] == 3 and 5 <= tensorrt.built <= 20
    if engine == "file":
        return
    again = found(*shlex.split(graph["piece"]["command"])[2:], "-o", tmp_path / "again")
    assert again["piece"]["nodes"] == 3 and "--against tensorrt --inputs" in graph["piece"]["command"]


def test_a_runtime_whose_defect_is_gone_when_one_looks(
    right: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = OnnxSide.maker
    monkeypatch.setattr(OnnxSide, "maker", lambda self, m: own(self, fused(m) if self.level == "all" else m))
    graph = found(right, "--against", right, "-o", tmp_path / "out")
    assert any("gone when inner values are shown" in note for note in graph["notes"])
    assert graph["first"]["value"] == "weights" and graph["piece"]["nodes"] == 3
    again = found(*shlex.split(graph["piece"]["command"])[2:], "-o", tmp_path / "again")
    assert again["first"]["value"] == "weights"
    assert found(right, "--against", right, "--level", "basic", code=0)["ok"]


def test_an_engine_that_agrees(tensorrt: Any, tmp_path: Path) -> None:
    plain = saved(layer(length=4), tmp_path / "plain.onnx")
    (tmp_path / "plain.plan").touch()
    assert found(plain, "--against", tmp_path / "plain.plan", code=0)["runs"]["b"] == "TensorRT 10.3.0"


def test_an_engine_that_was_made_of_another_graph(tensorrt: Any, tmp_path: Path) -> None:
    plain = saved(layer(length=4), tmp_path / "plain.onnx")
    saved(layer(length=4, seed=1), tmp_path / "other.onnx")
    graph = found(plain, "--against", tmp_path / "other.engine", "-o", tmp_path / "out")
    assert any("was made of another" in note for note in graph["notes"]) and graph["piece"] is None


def test_without_tensorrt_it_says_what_to_do(right: Path) -> None:
    said = typed(right, "--against", right.with_suffix(".engine"), code=3).stderr
    assert "cannot run here" in said and f"`tokexport debug {right} --record a.npz`" in said
    said = typed(right, "--against", "tensorrt", code=3).stderr
    assert "tensorrt cannot run here" in said and "same command on a machine with TensorRT" in said
    assert "tensorrt cannot be A" in typed("tensorrt", "--against", right, code=2).stderr


def test_values_are_recorded_for_another_machine(tensorrt: Any, right: Path, tmp_path: Path) -> None:
    said = " ".join(typed(right, "--record", tmp_path / "a.npz", code=0).stdout.split())
    assert "1 value of A, with its inputs (random, seed 0)" in said and "--against B" in said
    graph = found(tmp_path / "a.npz", "--against", right.with_suffix(".engine"), "-o", tmp_path / "out")
    assert not graph["outputs"][0]["ok"] and graph["runs"]["a"] == "recorded"
    assert any("neither side has a graph" in note for note in graph["notes"])
    typed(right, "--record", tmp_path / "all.npz", "--layers", code=0)
    wrong = saved(layer(masked=False), tmp_path / "wrong.onnx")
    assert found(tmp_path / "all.npz", "--against", wrong, "-o", tmp_path / "out")["first"]["value"] == "filled"
    assert "Missing option '--against'" in typed(right, code=2).stderr


def test_cuts_go_through_what_is_still_read() -> None:
    model = layer()
    known = {value.name or "": value.name or "" for node in model.graph for value in node.outputs}
    found = cuts(model, known)
    assert found[:3] == [("small",), ("normal",), ("normal", "q")]
    # What follows from constants is made again in the part, and never cut.
    assert ("v_turned", "filled") in found and not any("there" in cut for cut in found)
    del known["normal"]
    assert ("normal", "q") not in cuts(model, known) and ("small",) in cuts(model, known)


@pytest.mark.slow
def test_loose_engines_on_stand_ins(right: Path, tmp_path: Path) -> None:
    from runtimes import stand_in_gpu

    with stand_in_gpu.installed():
        from tokexport.runtimes.tensorrt.loose import LooseEngines

        engines = LooseEngines()
        engine = engines.build(ir.load(right))
        feeds = {"x": np.ones((1, 4, 8), np.float32)}
        np.testing.assert_allclose(engine.run(feeds)["y"], ort_runner(ir.load(right))(feeds)["y"], rtol=1e-5)
        assert found(right, "--against", "tensorrt", code=0)["runs"]["b"].startswith("TensorRT 10.3")
        (tmp_path / "not.engine").write_bytes(b'{"version": "9"}\n')
        assert "cannot load the engine" in typed(right, "--against", tmp_path / "not.engine", code=2).stderr
