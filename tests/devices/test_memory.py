"""What a graph needs at least, counted by hand."""

from __future__ import annotations

import onnx_ir as ir
from onnx import parser
from tokexport.devices.memory import Needs, needs

HEADER = '<ir_version: 10, opset_import: ["" : 18]>\n'


def loaded(text: str) -> ir.Model:
    from onnx import shape_inference

    return ir.from_proto(shape_inference.infer_shapes(parser.parse_model(HEADER + text)))


def test_weights_ends_and_what_is_alive_at_once():
    """x -> a -> b, a and b alive together, then a+b -> c -> y: 100 floats each, but for the weight of 10."""
    model = loaded(
        """g (float[10,10] x) => (float[10,10] y) <float[10] w = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0}>
        { a = Add (x, w)
          b = Neg (a)
          c = Add (a, b)
          y = Neg (c) }"""
    )
    assert needs(model) == Needs(weights=40, ends=800, activations=3 * 400)


def test_what_is_no_longer_read_is_free_again():
    model = loaded("g (float[10] x) => (float[10] y) { a = Neg (x) b = Neg (a) c = Neg (b) d = Neg (c) y = Neg (d) }")
    assert needs(model).activations == 2 * 40


def test_halves_count_half_and_an_unknown_axis_is_told():
    model = loaded("g (float16[10] x, float16[N] z) => (float16[10] y, float16[N] q) { y = Neg (x) q = Neg (z) }")
    assert needs(model) == Needs(weights=0, ends=40, activations=0, unknown=3)


def test_the_size_of_texts_is_not_known():
    model = loaded("g (string[2] s, float[10] x) => (string[2] t, float[10] y) { t = Identity (s) y = Neg (x) }")
    assert needs(model) == Needs(weights=0, ends=80, activations=0, unknown=3)
