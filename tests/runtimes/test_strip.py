from typing import Any

import onnx
import pytest
from onnx import parser
from tokexport.runtimes.bundle.strip import names_a_path, strip_local_info

# A model with a subgraph and a function: every place that can carry a text.
TEXT = """<ir_version: 10, opset_import: ["" : 18, "own" : 1]>
toy (float[2] x, bool c) => (float[2] y)
{
  a = own.Twice (x)
  y = If (c) <
    then_branch = yes () => (float[2] p) { p = Identity (a) },
    else_branch = no () => (float[2] q) { q = Constant <value = float[2] {1, 2}> () }
  >
}
<domain: "own", opset_import: ["" : 18]>
Twice (v) => (w) { w = Add (v, v) }"""

PATH = "made in /home/somebody/model.py"


@pytest.mark.parametrize(
    "text",
    [
        "/home/u/x",
        "see /opt/models/a.onnx for it",
        'File "model.py", line 3, in forward',
        "C:\\Users\\u",
        "d:/models",
        "~/models/a",
        "~user/a",
        "path=/scratch/x",
        "('/mnt/data',)",
        "file:///a/b",
        "\\\\host\\share",
        "line\n/tmp/x",
    ],
)
def test_local_paths_are_seen(text: str) -> None:
    assert names_a_path(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "https://github.com/a/b",
        "a/b/c",
        "and/or",
        "/",
        "a / b",
        "N/A",
        "['', 'vision.layers.0']",
        "{'k': 1}",
        "1:/2",
    ],
)
def test_other_texts_are_not(text: str) -> None:
    assert not names_a_path(text)


PROPS = {
    "pkg.torch.onnx.stack_trace": "anything",
    "note": PATH,
    "plain": "a note",
    "pkg.torch.onnx.name_scopes": "['', 'vision']",
    "tokexport.seams": '[{"tensor": "/vision/layers.0/Add"}]',
}


def places(model: onnx.ModelProto) -> list[Any]:
    graph, function = model.graph, model.functions[0]
    branches = [attribute.g for attribute in graph.node[1].attribute]
    constant = branches[1].node[0].attribute[0]
    assert constant.t.dims
    nodes = [*graph.node, *function.node, *branches[0].node, *branches[1].node]
    values = [*graph.input, *graph.output, *branches[0].output]
    return [model, graph, function, *branches, constant, constant.t, *nodes, *values, *graph.initializer]


def marked() -> onnx.ModelProto:
    model = parser.parse_model(TEXT)
    for item in places(model):
        item.doc_string = PATH
        if hasattr(item, "metadata_props"):
            for key, value in PROPS.items():
                item.metadata_props.add(key=key, value=value)
    return model


def test_every_place_is_cleaned_and_names_are_kept() -> None:
    model = marked()
    strip_local_info(model)
    for item in places(model):
        assert item.doc_string == "", item
        if hasattr(item, "metadata_props"):
            kept = {entry.key: entry.value for entry in item.metadata_props}
            assert sorted(kept) == ["pkg.torch.onnx.name_scopes", "plain", "tokexport.seams"], item
            assert kept["plain"] == "a note"


def test_nothing_of_it_is_left_in_the_file() -> None:
    model = marked()
    assert b"somebody" in model.SerializeToString()
    strip_local_info(model)
    assert b"somebody" not in model.SerializeToString()


def test_plain_doc_strings_stay() -> None:
    model = parser.parse_model(TEXT)
    model.doc_string = "a toy, and/or a model"
    strip_local_info(model)
    assert model.doc_string == "a toy, and/or a model"
