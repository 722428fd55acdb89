"""A text is a graph input: added once, never in the place of something else."""

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest
import torch
from tokexport.errors import RequestError
from tokexport.graph_passes.compress import compress
from tokexport.graph_passes.compressors import make
from tokexport.graph_passes.insertion.insert import insert
from tokexport.graph_passes.insertion.signals import emit_signal
from tokexport.graph_passes.reference import reference
from tokexport.graph_passes.seams.find import describe
from toy_vit import encoder_output, run, text, toy_vit

DIM = 8


def texts(model):
    return [(value.name, value.dtype, list(value.shape)) for value in model.graph.inputs if value.name == "text"]


def test_one_input_in_the_dtype_of_the_tokens():
    model, seam = toy_vit(), encoder_output()
    value = emit_signal(model, seam, "text", 5)
    assert emit_signal(model, seam, "text", 5) is value and not seam.signals.get("text")
    assert texts(model) == [("text", ir.DataType.FLOAT, [1, 5, DIM])]


def test_what_is_kept_follows_from_the_text():
    model, seam = toy_vit(), encoder_output()
    feeds = {value.name: np.random.default_rng(0).standard_normal(list(value.shape)) for value in model.graph.inputs}
    feeds = {name: array.astype(np.float32) for name, array in feeds.items()}
    done = insert(model, seam, make("lftr_text", {"text_length": 3}), 4)
    assert done.params == {"text_length": 3, "grid": None}
    words = np.zeros((1, 3, DIM), np.float32)
    words[0, 1] = np.random.default_rng(1).standard_normal(DIM)
    kept = [set(run(model, {**feeds, "text": sign * words})["kept_indices"][0].tolist()) for sign in (1, -1)]
    assert seam.tokens >= 8 and not kept[0] & kept[1]


def test_two_methods_read_one_text():
    model, seam = toy_vit(), encoder_output()
    for method in ("trim", "lftr_text"):
        emit_signal(model, seam, make(method).signals()[0], make(method).text_length)
    assert texts(model) == [("text", ir.DataType.FLOAT, [1, 64, DIM])]


def named(kind):
    model = toy_vit()
    if kind == "output":
        model.graph.outputs[0].name = "text"
    else:
        shape, dtype = {"rows": ([1, 7, DIM], 1), "ids": ([1, 64], 7), "type": ([1, 64, DIM], 10)}[kind]
        model.graph.inputs.append(ir.Value(name="text", shape=ir.Shape(shape), type=ir.TensorType(ir.DataType(dtype))))
    return model


@pytest.mark.parametrize("kind", ["rows", "ids", "type", "output"])
def test_another_tensor_of_that_name_is_refused_and_nothing_was_edited(kind):
    model = named(kind)
    model.ir_version = 10
    before = text(model)
    with pytest.raises(RequestError, match=r"has a tensor 'text'.*reads an input 'text' \[B, 64, 8\] in float32"):
        insert(model, encoder_output(), make("adafv"), 4)
    assert text(model) == before


def test_an_input_that_is_a_text_is_read():
    model = named("rows")
    insert(model, encoder_output(), make("cdpruner", {"text_length": 7}), 4)
    assert texts(model) == [("text", ir.DataType.FLOAT, [1, 7, DIM])]


def test_a_method_that_does_not_say_how_long_its_text_is():
    @dataclasses.dataclass(frozen=True)
    class Silent(type(make("uniform"))):
        def signals(self):
            return ("text",)

    with pytest.raises(RequestError, match="does not define its number of rows"):
        insert(toy_vit(), encoder_output(), Silent(), 4)


def test_a_seam_that_lacks_attention_names_methods_that_read_text():
    seam = dataclasses.replace(encoder_output(), signals={})
    with pytest.raises(RequestError, match=r"has no signal 'keys'.*cdpruner"):
        emit_signal(toy_vit(), seam, "keys")


def test_inspect_says_that_what_is_kept_holds_for_one_question():
    model = compress(toy_vit(), "trim", keep=4, seam="tensor:" + encoder_output().tensor)
    assert describe(model)["notes"][-1].startswith("trim chooses by the input 'text'")
    plain = compress(toy_vit(), "kcenter_merge", keep=4, seam="tensor:" + encoder_output().tensor)
    assert not any("'text'" in note for note in describe(plain)["notes"])


@pytest.mark.parametrize("shape", [(2, 5, 4), (1, 5, 3), (1, 4)])
def test_the_reference_takes_a_text_in_the_space_of_the_tokens(shape):
    assert reference("trim", torch.randn(1, 9, 4), keep=3, text=torch.randn(1, 5, 4)).tokens.shape == (1, 3, 4)
    with pytest.raises(RequestError, match=r"the text is .* and the tokens are \[1, 9, 4\]"):
        reference("trim", torch.randn(1, 9, 4), keep=3, text=torch.randn(shape))
