"""`tokexport debug` on half precision: what overflows is found, and the fewest float32 islands cure it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from toy_debug import CHANNELS, TOKENS, Graph, found, layer, renamed, saved, typed

pytest.importorskip("onnxruntime")
# Products of this size do not fit float16, its weights do.
GAIN = 5.5e4


def halved(model: ir.Model, half: ir.DataType = ir.DataType.FLOAT16) -> ir.Model:
    """Every float32 of a graph, as converters that know no ranges do it."""
    for value in model.graph.initializers.values():
        if value.dtype == ir.DataType.FLOAT and value.const_value is not None:
            array = value.const_value.numpy().astype(half.numpy())
            value.const_value = ir.Tensor(array, dtype=half, name=value.name or "")
    values = [*model.graph.inputs, *model.graph.initializers.values()]
    for value in (*values, *(value for node in model.graph for value in node.outputs)):
        if value.dtype == ir.DataType.FLOAT:
            value.type = ir.TensorType(half)
    return model


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(layer(gain=GAIN), tmp_path_factory.mktemp("half") / "right.onnx")


@pytest.fixture(scope="module")
def overflows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(halved(layer(gain=GAIN)), tmp_path_factory.mktemp("half") / "overflows.onnx")


def test_an_overflow_and_its_islands(right: Path, overflows: Path, tmp_path: Path) -> None:
    graph = found(right, "--against", overflows, "-o", tmp_path / "out")
    assert graph["first"]["value"] == "up" and graph["threshold"]["precision"] == "fp16"
    assert "inf in B, where A reaches" in graph["first"]["detail"] and "beyond the 65504" in graph["first"]["detail"]
    assert [node["node"] for node in graph["islands"]["nodes"]] == ["/up", "/down"]
    assert all("|up| reaches" in node["why"] for node in graph["islands"]["nodes"])
    # The tokens in, the quotient out; 64 weights and a scale of two bytes more, two values of 32 numbers likewise.
    cost = [graph["islands"][name] for name in ("casts", "weight_bytes", "value_bytes")]
    assert cost == [2, 130, 128]


def test_the_graph_with_its_islands_is_written_and_agrees(right: Path, overflows: Path, tmp_path: Path) -> None:
    fixed = tmp_path / "fixed.onnx"
    said = typed(right, "--against", overflows, "-o", tmp_path / "out", "--fix", fixed, code=0).stdout
    assert f"{fixed} agrees" in " ".join(said.split()) and "cost: 2 Casts, 130 bytes of weights" in " ".join(
        said.split()
    )
    again = found(right, "--against", fixed, code=0)
    # Islands are not all of it: what is left in half precision sets the threshold.
    assert again["ok"] and again["threshold"]["precision"] == "fp16"
    model = ir.load(fixed)
    types = {value.name: value.dtype for node in model.graph for value in node.outputs}
    assert types["up"] == ir.DataType.FLOAT and types["down"] == types["q"] == ir.DataType.FLOAT16
    # Nobody reads the half weight any more; the product has the weight as it was before it was rounded.
    weights = {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}  # type: ignore
    reference = layer(gain=GAIN).graph.initializers["up.weight"].const_value
    np.testing.assert_array_equal(weights["up.weight.float32"], reference.numpy())  # type: ignore[union-attr]


def test_what_can_read_an_infinity_is_no_island(tmp_path: Path) -> None:
    def model() -> ir.Model:
        g = Graph()
        x = ir.val("x", ir.DataType.FLOAT, (1, TOKENS, CHANNELS))
        up = g.matrix(x, "up", gain=GAIN)
        # One for inf and for all that is large.
        sign = g.op("Clip", up, g.weight("least", -1.0), g.weight("most", 1.0), name="sign")
        down = g.op("Mul", up, g.weight("down.scale", 1 / GAIN), name="down")
        return g.model([x], [g.op("Add", down, sign, name="y")])

    a, b = saved(model(), tmp_path / "a.onnx"), saved(halved(model()), tmp_path / "b.onnx")
    graph = found(a, "--against", b, "-o", tmp_path / "out")
    assert [node["node"] for node in graph["islands"]["nodes"]] == ["/up", "/down"]


def test_names_of_its_own(right: Path, tmp_path: Path) -> None:
    other = saved(renamed(halved(layer(gain=GAIN))), tmp_path / "other.onnx")
    graph = found(right, "--against", other, "-o", tmp_path / "out", "--fix", tmp_path / "fixed.onnx", code=0)
    assert [node["op"] for node in graph["islands"]["nodes"]] == ["MatMul", "Mul"]


def test_nothing_is_written_where_nothing_differs(tmp_path: Path) -> None:
    a, b = saved(layer(), tmp_path / "a.onnx"), saved(halved(layer()), tmp_path / "b.onnx")
    graph = found(a, "--against", b, "--fix", tmp_path / "fixed.onnx", code=0)
    assert any("was not written" in note for note in graph["notes"]) and not (tmp_path / "fixed.onnx").exists()


def test_what_is_not_the_precision_has_no_islands(right: Path, tmp_path: Path) -> None:
    wrong = saved(halved(layer(masked=False)), tmp_path / "wrong.onnx")
    graph = found(saved(layer(), tmp_path / "a.onnx"), "--against", wrong, "-o", tmp_path / "out")
    assert graph["first"]["value"] == "filled" and graph["islands"]["nodes"] == []
    assert "not the precision" in graph["islands"]["why"]


@pytest.mark.parametrize("half", [ir.DataType.FLOAT16, ir.DataType.BFLOAT16])
def test_half_precision_that_is_only_rounded_agrees(half: ir.DataType, tmp_path: Path) -> None:
    a, b = saved(layer(), tmp_path / "a.onnx"), saved(halved(layer(), half), tmp_path / "b.onnx")
    graph = found(a, "--against", b, "--layers", code=0)
    assert any("each value rounded" in note for note in graph["notes"])
    # Rounded indeed: no value is that of float32.
    rows = {row["value"]: row for row in graph["layers"]}
    assert all(row["ok"] for row in rows.values()) and rows["q"]["max_abs"] > 1e-4
