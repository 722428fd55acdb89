"""A graph for B = 1 that takes several inputs at once: each gets what it would alone, or the graph is refused."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from tokexport.errors import GraphError
from tokexport.graph_passes.resize.stacked import stacked
from tokexport.runtimes.ort.graph import ort_runner

BATCH = 3


def model(body: str, constants: str = "", y: str = "float y") -> ir.Model:
    """x [1, 4, 6] float32 and i [1, 2] int64 -> y."""
    text = f'<ir_version: 10, opset_import: ["" : 18]> g (float[1,4,6] x, int64[1,2] i) => ({y})'
    found = onnx.parser.parse_model(f"{text} {f'<{constants}>' if constants else ''} {{ {body} }}")
    found.graph.output[0].type.tensor_type.ClearField("shape")
    return ir.from_proto(onnx.shape_inference.infer_shapes(found, strict_mode=True))


ACCEPTED = {
    "a shape with its batch": ("y = Reshape(x, s)", "int64[4] s = {1, 4, 2, 3}"),
    "a batch that is left to work out": ("y = Reshape(x, s)", "int64[2] s = {-1, 6}"),
    "a batch merged with the heads": (
        "a = Reshape(x, s) b = Transpose<perm=[0,2,1]>(a) y = Reshape(b, t)",
        "int64[3] s = {2, 2, 6}, int64[4] t = {1, 2, 6, 2}",
    ),
    "attention": ("t = Transpose<perm=[0,2,1]>(x) a = MatMul(x, t) b = Softmax<axis=-1>(a) y = MatMul(b, x)", ""),
    "a matrix that is the same for all": ("y = MatMul(x, w)", "float[6,1] w = {1, 2, 3, 4, 5, 6}"),
    "a bias that is the same for all": ("y = Add(x, w)", "float[1,1,6] w = {1, 2, 3, 4, 5, 6}"),
    "a row that is joined": ("y = Concat<axis=1>(x, w)", "float[1,1,6] w = {1, 2, 3, 4, 5, 6}"),
    "a table that is read": ("y = Gather<axis=0>(w, i)", "float[3,1] w = {1, 2, 3}"),
    "positions of a row": ("y = Gather<axis=1>(x, w)", "int64[2] w = {3, 0}"),
    "positions of its own": (
        "u = Unsqueeze(i, a) e = Expand(u, s) y = GatherElements<axis=1>(x, e)",
        "int64[1] a = {2}, int64[3] s = {1, 2, 6}",
    ),
    "a padded row": ("y = Pad(x, p)", "int64[6] p = {0, 1, 0, 0, 0, 2}"),
    "part of a row": (
        "y = Slice(x, b, e, a)",
        "int64[1] b = {1}, int64[1] e = {3}, int64[1] a = {1}",
    ),
    "a mean over a row": ("y = ReduceMean<keepdims=0>(x, a)", "int64[1] a = {1}"),
    "rows of a matrix": (
        "f = Reshape(x, s) y = Gemm(f, w, c)",
        "int64[2] s = {4, 6}, float[6,1] w = {1, 2, 3, 4, 5, 6}, float[1] c = {7}",
    ),
    "halves": ("y, z = Split<axis=2, num_outputs=2>(x)", ""),
}

REFUSED = {
    "softmax along the batch": ("y = Softmax<axis=0>(x)", "", "along the batch"),
    "a batch that moves": ("y = Transpose<perm=[1,0,2]>(x)", "", "moves the batch"),
    "an axis before the batch": ("y = Unsqueeze(x, a)", "int64[1] a = {0}", "along the batch"),
    "a batch that goes": ("y = Squeeze(x, a)", "int64[1] a = {0}", "along the batch"),
    "a sum over the batch": ("y = ReduceSum<keepdims=0>(x, a)", "int64[2] a = {0, 2}", "along the batch"),
    "a product over the batch": (
        "f = Reshape(x, s) y = Gemm<transA=1>(f, f)",
        "int64[2] s = {4, 6}",
        "product over the batch",
    ),
    "a product of one with another": (
        "f = Reshape(x, s) t = Transpose<perm=[0,1]>(f) g = Reshape(x, u) y = MatMul(t, g)",
        "int64[2] s = {4, 6}, int64[2] u = {6, 4}",
        "no axis of its own",
    ),
    "a bias for every row of one input": (
        "f = Reshape(x, s) y = Add(f, w)",
        "int64[2] s = {4, 6}, float[4,1] w = {1, 2, 3, 4}",
        "entries of its own along the batch",
    ),
    "an operand that is aligned with a row": (
        "f = Reshape(x, s) y = Add(x, f)",
        "int64[2] s = {4, 6}",
        "broadcast along the batch",
    ),
    "a padded batch": ("y = Pad(x, p)", "int64[6] p = {1, 0, 0, 0, 0, 0}", "pads the batch"),
    "positions in all inputs": ("f = Reshape(x, s) y = Gather<axis=0>(f, i)", "int64[2] s = {4, 6}", "read in all"),
    "an operator without a rule": ("y = CumSum(x, a)", "int64 a = {1}", "no rule"),
    "a shape that is computed": ("s = Shape(x) y = Reshape(x, s)", "", "no rule"),
    "an output of no input": ("z = Relu(x) y = Relu(w)", "float[1,1] w = {1}", "depends on no input"),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_each_input_gets_what_it_would_alone(case):
    one = model(*ACCEPTED[case])
    many = stacked(one, BATCH)
    rng = np.random.default_rng(0)
    x, i = rng.normal(size=(BATCH, 4, 6)).astype(np.float32), rng.integers(0, 3, (BATCH, 2))
    feeds = {value.name: {"x": x, "i": i}[value.name] for value in one.graph.inputs}
    found, alone = ort_runner(many)(feeds)["y"], ort_runner(one)
    wanted = np.concatenate([alone({name: v[at : at + 1] for name, v in feeds.items()})["y"] for at in range(BATCH)])
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    assert tuple(many.graph.outputs[0].shape.numpy()) == found.shape
    # The graph that was given is as it was.
    assert tuple(one.graph.inputs[0].shape.numpy()) == (1, 4, 6) and alone({n: v[:1] for n, v in feeds.items()})


@pytest.mark.parametrize("case", REFUSED)
def test_what_could_let_one_input_see_another_is_refused(case):
    body, constants, why = REFUSED[case]
    with pytest.raises(GraphError, match=why):
        stacked(model(body, constants), BATCH)


def test_a_dynamic_shape_is_refused():
    dynamic = model("y = Relu(x)")
    dynamic.graph.inputs[0].shape = ir.Shape(["B", 4, 6])
    with pytest.raises(GraphError, match="not static"):
        stacked(dynamic, BATCH)
