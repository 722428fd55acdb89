"""What float16 cannot hold is found on the float32 graph with real inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from tokexport.errors import RequestError
from tokexport.graph_passes.precision import ranges
from tokexport.graph_passes.precision.ranges import find_islands
from toy_graph import Toy, block

pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("weight_from", [1 << 20, 0])
def test_ranges_bound_partial_sums_that_cancel(monkeypatch: pytest.MonkeyPatch, weight_from: int) -> None:
    """Of large weights too, whose magnitudes are taken in one step."""
    monkeypatch.setattr(ranges, "_WEIGHT", weight_from)
    t = Toy(1, 2048)
    signs = np.tile([[10.0], [-10.0]], (1024, 1))
    model = t.model(t.op("MatMul", t.x, t.const("w", signs), name="y"))
    found = find_islands(model, {"x": np.full((1, 2048), 10, np.float32)})
    assert found == {"n_y": "the sum of magnitudes in MatMul reaches 2.048e+05"}


def test_ranges_take_the_largest_of_several_inputs_and_a_mean_by_its_sum() -> None:
    t = Toy(1, 1000)
    model = t.model(t.op("ReduceMean", t.x, t.const("axes", np.array([1])), name="y", keepdims=0))
    one, hundred = np.ones((1, 1000), np.float32), np.full((1, 1000), 100, np.float32)
    assert find_islands(model, {"x": one}) == {}
    assert find_islands(model, [{"x": hundred}, {"x": one}]) == {
        "n_y": "the sum of magnitudes in ReduceMean reaches 1e+05"
    }


def test_ranges_take_a_mean_whose_axes_are_an_attribute_as_before_opset_18() -> None:
    t = Toy(1, 1000)
    model = t.model(t.op("ReduceMean", t.x, name="y", axes=[1], keepdims=0))
    model.graph.opset_imports[""] = 17
    hundred = {"x": np.full((1, 1000), 100, np.float32)}
    assert find_islands(model, hundred) == {"n_y": "the sum of magnitudes in ReduceMean reaches 1e+05"}


def test_ranges_of_ordinary_numbers_are_silent_and_the_model_is_untouched() -> None:
    model = block()
    before = [node.name for node in model.graph]
    assert find_islands(model, {"x": np.ones((1, 6, 8), np.float32)}) == {}
    assert [node.name for node in model.graph] == before
    assert [o.name for o in model.graph.outputs] == ["y"]


def test_ranges_pass_over_infinite_masks() -> None:
    t = Toy(1, 4)
    model = t.model(t.op("Add", t.x, t.const("mask", np.array([0, 0, -np.inf, 0])), name="y"))
    assert find_islands(model, {"x": np.ones((1, 4), np.float32)}) == {}


def test_ranges_read_external_weights_where_they_lie(tmp_path: Path) -> None:
    t = Toy(1, 2048)
    model = t.model(t.op("MatMul", t.x, t.const("w", np.full((2048, 4), 10.0)), name="y"))
    ir.save(model, tmp_path / "m.onnx", external_data="m.data", size_threshold_bytes=1)
    assert list(find_islands(ir.load(tmp_path / "m.onnx"), {"x": np.full((1, 2048), 10, np.float32)})) == ["n_y"]


@pytest.mark.parametrize("feed", [{}, {"x": np.full((1, 4), np.nan, np.float32)}])
def test_ranges_refuse_bad_inputs(feed: dict[str, np.ndarray]) -> None:
    t = Toy(1, 4)
    with pytest.raises(RequestError, match=r"'x' (is missing|holds NaN)"):
        find_islands(t.model(t.op("Relu", t.x, name="y")), feed)
