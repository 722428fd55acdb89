"""What a graph asked for against what TensorRT says is there."""

from __future__ import annotations

import json

import pytest
from tokexport.errors import GateError
from tokexport.runtimes.tensorrt.layers import Layer, asked, compare, of_inspector
from toy_bundle import ENCODER, model

WANTED = {"x": "FLOAT16", "y": "FLOAT16", "island": "FLOAT", "ids": "INT64"}


def layer(kind: str = "MatMul", **outputs: str) -> Layer:
    return Layer("node", kind, outputs)


def test_equal_types_in_both_spellings() -> None:
    check = compare("network", WANTED, [layer(x="HALF", island="FLOAT"), layer(y="Row major linear FP16 format")])
    assert check.ok and check.compared == 3
    assert check.to_json() == {"stage": "network", "layers": 2, "compared": 3}


def test_a_type_that_is_not_what_was_asked_for_is_named() -> None:
    check = compare("engine", WANTED, [layer(x="Half"), layer(y="Row major linear FP32")])
    assert check.differing == ("tensor y: asked FLOAT16, is FLOAT",)
    with pytest.raises(GateError, match=r"engine is not what the graph asks for: tensor y.*graph encoder.*--form"):
        check.require("graph encoder")


def test_bfloat16_is_not_float16() -> None:
    assert not compare("engine", {"x": "BFLOAT16"}, [layer(x="Row major linear FP16 format")]).ok
    assert compare("engine", {"x": "BFLOAT16"}, [layer(x="Row major linear BFloat16 format")]).ok


def test_a_comparison_of_nothing_shows_nothing() -> None:
    check = compare("engine", WANTED, [layer(ids="Int64"), layer(unknown="Half")])
    with pytest.raises(GateError, match="names none of the tensors"):
        check.require("graph encoder")


def test_each_plugin_node_must_be_there() -> None:
    nodes = ["TokexportApet", "TokexportApet"]
    there = [layer("PLUGIN_V3", x="HALF"), layer("PluginV3", y="HALF")]
    assert compare("network", WANTED, there, nodes).ok
    check = compare("network", WANTED, [there[0], layer(y="HALF")], nodes)
    with pytest.raises(GateError, match="plugin TokexportApet is not in it"):
        check.require("graph encoder")


def test_what_an_inspector_says() -> None:
    told = {
        "Layers": [
            {"Name": "a", "LayerType": "PluginV3", "Outputs": [{"Name": "x", "Format/Datatype": "Half"}]},
            {"Name": "b", "LayerType": "kgen", "Outputs": [{"Name": "y", "Format/Datatype": "Row major linear FP32"}]},
            "a layer without details",
        ],
        "Bindings": ["x"],
    }
    first, second, third = of_inspector(json.dumps(told))
    assert (first.kind, first.outputs, third.outputs) == ("PluginV3", {"x": "Half"}, {})
    assert compare("engine", WANTED, [first, second]).differing == ("tensor y: asked FLOAT16, is FLOAT",)


def test_what_a_graph_asks_for() -> None:
    wanted = asked(model(ENCODER))
    assert wanted["pixel_values"] == wanted["tokens"] == "FLOAT" and wanted["kept_indices"] == "INT64"
