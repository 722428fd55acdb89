"""Dynamic inputs are fixed by our own option, and an old opset is raised by us; what we print as a cure cures."""

from __future__ import annotations

import ast
import re

import numpy as np
import onnx_ir as ir
import pytest
from exported_models import Toy, by_name, run
from tokexport.errors import GraphError, RequestError
from tokexport.graph_passes.compress import compress

D = 8


def picture(batch: int | str = "b") -> ir.Model:
    toy = Toy()
    x = toy.patches(toy.input("pixels", batch, 3, "height", "width"), D, 28)
    return toy.output(toy.op("Identity", toy.block(toy.block(x, D, 2), D, 2), name="y"))


def sound() -> ir.Model:
    toy = Toy()
    wave = toy.op("Conv", toy.input("mel", 1, 4, "frames"), toy.weight(D, 4, 3), pads=[1, 1], strides=[50])
    x = toy.op("Transpose", wave, perm=[0, 2, 1])
    return toy.output(toy.op("Identity", toy.block(toy.block(x, D, 2), D, 2), name="y"))


def text() -> ir.Model:
    toy = Toy()
    x = toy.op("Gather", toy.weight(10, D), toy.input("ids", "b", "length", dtype=ir.DataType.INT64), axis=0)
    return toy.output(toy.op("Identity", toy.block(toy.block(x, D, 2), D, 2), name="y"))


@pytest.mark.parametrize(
    ("made", "option"),
    [(picture, "pixels=1,3,336,336"), (sound, "mel=1,4,3000"), (text, "ids=1,64")],
)
def test_the_cure_for_a_dynamic_token_axis_fits_the_input_and_cures(made, option: str) -> None:
    with pytest.raises(GraphError, match=f"dynamic.*--input-shape {option}") as caught:
        compress(made(), "divprune", keep=4)
    keywords = re.search(r"input_shapes=(\{.*?\})\)", str(caught.value))
    assert keywords
    small = compress(made(), "divprune", keep=4, input_shapes=ast.literal_eval(keywords[1]))
    feeds = {v.name: np.ones([*v.shape], v.dtype.numpy()) for v in small.graph.inputs}
    assert run(small, feeds)[0].shape == (1, 4, D)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(RequestError, match=r"\[b, 3, height, width\].*--input-shape pixels=1,3,336,336"):
        compress(picture(), "divprune", keep=4, input_shapes={"pixels": [1, 4, 56, 56]})
    with pytest.raises(RequestError, match="no input 'pixel'"):
        compress(picture(), "divprune", keep=4, input_shapes={"pixel": [1, 3, 56, 56]})


def old_opset(opset: int) -> ir.Model:
    """A CLS token on its batch, as an old exporter writes it: axes are attributes below 13."""
    toy = Toy(opset)
    image = toy.input("pixels", 1, 3, 16, 16)
    axes = {"axes": [0]} if opset < 13 else {}
    more = () if opset < 13 else (toy.const([0]),)
    batch = toy.op("Unsqueeze", toy.op("Gather", toy.op("Shape", image), toy.const(np.array(0))), *more, **axes)
    size = toy.op("Concat", batch, toy.const([1, D]), axis=0)
    x = toy.op("Concat", toy.op("Expand", toy.weight(1, 1, D), size), toy.patches(image, D, 4), axis=1)
    return toy.output(toy.op("Identity", toy.block(toy.block(x, D, 2), D, 2), name="y"))


@pytest.mark.parametrize("opset", [12, 14, 17])
def test_an_old_opset_is_raised_and_signals_survive(opset: int) -> None:
    model = old_opset(opset)
    small = compress(model, "cls_topk", keep=4)
    assert small.graph.opset_imports[""] == 18 and model.graph.opset_imports[""] == opset
    assert by_name(model)["encoder_output"].prefix == 1
    feeds = {"pixels": np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32)}
    whole, (tokens, kept, *_) = run(old_opset(opset), feeds)[0], run(small, feeds)
    np.testing.assert_allclose(tokens[0, 1:], whole[0, 1 + kept[0]], rtol=1e-4, atol=1e-5)


def test_raising_the_opset_reads_no_weights() -> None:
    model = old_opset(17)
    weights = {}
    for name, value in model.graph.initializers.items():
        if value.dtype == ir.DataType.FLOAT and value.const_value.size > 1:
            tensor = ir.ExternalTensor("absent.bin", 0, 8192, value.dtype, shape=ir.Shape([*value.shape]), name=name)
            value.const_value = weights[name] = tensor
    small = compress(model, "cls_topk", keep=4)
    for name, tensor in weights.items():
        assert small.graph.initializers[name].const_value is tensor or tensor.nbytes <= 4096
