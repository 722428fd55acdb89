"""The proof behind a seam, one rule each: tokens [1, 9, 8] (one prefix token) become [1, 4, 8]."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from tokexport.errors import GraphError
from tokexport.graph_passes import rest_rules
from tokexport.graph_passes.rest import plan_rest, prove_rest
from tokexport.graph_passes.rest_state import Axis

OLD, NEW = 9, 4


def model(body: str, weights: str = "", *, y: str = "float y", x: str = "float[1,9,8] x", opset: int = 18) -> ir.Model:
    """A graph from ONNX text: input x carries the tokens on axis 1."""
    imports = f'"" : {opset}, "com.microsoft" : 1'
    text = f"<ir_version: 10, opset_import: [{imports}]> g ({x}) => ({y}) <{weights}> {{ {body} }}"
    proto = onnx.parser.parse_model(text)
    for output in proto.graph.output:  # A bare `float y` says rank 0.
        output.type.tensor_type.ClearField("shape")
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True))


def prove(m: ir.Model, *, axis: int = 1, prefix: int = 1) -> list[str]:
    return prove_rest(m, m.graph.inputs[0], axis, OLD, NEW, prefix=prefix)


def run(m: ir.Model, seed: int = 0) -> list[np.ndarray]:
    """Run in ONNX Runtime and check that every declared output shape is what comes out."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(ir.to_proto(m).SerializeToString(), options)
    rng = np.random.default_rng(seed)
    feeds = {
        v.name: rng.standard_normal([d if isinstance(d, int) else 2 for d in v.shape]).astype(np.float32)
        for v in m.graph.inputs
    }
    results = session.run(None, feeds)
    for value, result in zip(m.graph.outputs, results):
        assert [d for d in value.shape if isinstance(d, int)] == [
            size for size, d in zip(result.shape, value.shape) if isinstance(d, int)
        ]
    return results


def accept(m: ir.Model, shape: list[int], *, rewritten: int = 0, **how: int) -> list[str]:
    lines = prove(m, **how)
    assert len(lines) == rewritten, lines
    assert list(run(m)[0].shape) == shape
    return lines


def refuse(m: ir.Model, *words: str, **how: int) -> None:
    before = onnx.printer.to_text(ir.to_proto(m))
    with pytest.raises(GraphError) as caught:
        prove(m, **how)
    for word in words:
        assert word in str(caught.value)
    assert onnx.printer.to_text(ir.to_proto(m)) == before, "a refusal leaves the graph as it was"


# Elementwise


def test_channel_weights_and_scalars_broadcast() -> None:
    m = model("h = Mul(x, w) y = Add(h, one)", "float[8] w = {1,2,3,4,5,6,7,8}, float one = {1}")
    accept(m, [1, 4, 8])
    assert list(m.graph.node(0).outputs[0].shape) == [1, 4, 8]


def test_position_table_is_refused_with_its_name() -> None:
    m = model("y = Add(x, pos)", f"float[1,9,1] pos = {{{','.join(map(str, range(9)))}}}")
    refuse(m, "Add", "pos", "9 tokens")


def test_uniform_table_is_shortened() -> None:
    m = model("y = Add(x, pos)", f"float[1,9,1] pos = {{{','.join('5' * 9)}}}")
    (line,) = accept(m, [1, 4, 8], rewritten=1)
    assert "pos" in line and "from 9 to 4" in line


def test_uniform_mask_is_shortened_on_both_axes() -> None:
    mask = f"float[1,1,9,9] mask = {{{','.join('0' * 81)}}}"
    body = "t = Transpose<perm=[0,2,1]>(x) s = MatMul(x, t) u = Unsqueeze(s, one) y = Add(u, mask)"
    accept(model(body, mask + ", int64[1] one = {1}"), [1, 1, 4, 4], rewritten=1)


def test_expand_of_a_constant_is_shortened_without_touching_other_readers() -> None:
    body = "e = Expand(w, s) y = Add(x, e) z = Identity(e)"
    m = model(body, "float[1,1,8] w = {1,2,3,4,5,6,7,8}, int64[3] s = {1,9,8}", y="float y, float z")
    accept(m, [1, 4, 8], rewritten=1)
    assert run(m)[1].shape == (1, 9, 8)


def test_constant_of_shape_is_shortened() -> None:
    accept(model("e = ConstantOfShape(s) y = Add(x, e)", "int64[2] s = {9,8}"), [1, 4, 8], rewritten=1)


def test_computed_operand_of_the_old_size_is_refused() -> None:
    refuse(model("y = Add(x, z)", x="float[1,9,8] x, float[1,9,8] z"), "z", "not computed from")


def test_coincidence_of_sizes_is_not_a_token_axis() -> None:
    m = model(
        "h = MatMul(x, w) y = Add(h, b)", f"float[8,9] w = {{{','.join('1' * 72)}}}, float[9] b = {{1,2,3,4,5,6,7,8,9}}"
    )
    accept(m, [1, 4, 9])


def test_shifted_tokens_are_refused() -> None:
    body = "a = Slice(x, one, big, one) b = Concat<axis=1>(a, p) y = Add(x, b)"
    weights = "int64[1] one = {1}, int64[1] big = {9223372036854775807}, float[1,1,8] p = {0,0,0,0,0,0,0,0}"
    refuse(model(body, weights), "Add", "another span")


# Products


def test_attention_over_tokens() -> None:
    body = """q = Reshape(x, split) qt = Transpose<perm=[0,2,1,3]>(q) k = Transpose<perm=[0,2,3,1]>(q)
              s = MatMul(qt, k) p = Softmax<axis=-1>(s) o = MatMul(p, qt)
              t = Transpose<perm=[0,2,1,3]>(o) y = Reshape(t, join)"""
    m = model(body, "int64[4] split = {1,9,2,4}, int64[3] join = {1,9,8}")
    lines = accept(m, [1, 4, 8], rewritten=2)
    assert all("axis 1 from 9 to 4" in line for line in lines)
    probabilities = next(v for n in m.graph for v in n.outputs if v.name == "p")
    assert list(probabilities.shape) == [1, 2, 4, 4]


def test_weights_over_tokens_are_refused() -> None:
    m = model("t = Transpose<perm=[0,2,1]>(x) y = MatMul(t, w)", f"float[9,3] w = {{{','.join('1' * 27)}}}")
    refuse(m, "MatMul", "w [9, 3]", "sums over the tokens")


def test_weights_on_the_left_over_tokens_are_refused() -> None:
    refuse(model("y = MatMul(w, x)", f"float[3,9] w = {{{','.join('1' * 27)}}}"), "w [3, 9]")


def test_gemm_rows_and_its_bias() -> None:
    weights = f"float[5,8] w = {{{','.join('1' * 40)}}}, float[5] b = {{1,2,3,4,5}}, int64[1] zero = {{0}}"
    accept(model("h = Squeeze(x, zero) y = Gemm<transB=1>(h, w, b)", weights), [4, 5])


def test_gemm_contraction_is_refused() -> None:
    weights = f"float[9,5] w = {{{','.join('1' * 45)}}}, int64[1] zero = {{0}}"
    refuse(model("h = Squeeze(x, zero) y = Gemm<transA=1>(h, w)", weights), "Gemm", "w [9, 5]")


def test_einsum_attention() -> None:
    accept(model('y = Einsum<equation="bnd,bmd->bnm">(x, x)'), [1, 4, 4])


def test_einsum_with_weights_over_tokens_is_refused() -> None:
    refuse(model('y = Einsum<equation="bnd,n->bd">(x, w)', f"float[9] w = {{{','.join('1' * 9)}}}"), "w")


ATTENTION = "q = Reshape(x, split) h = Transpose<perm=[0,2,1,3]>(q) y = Attention(h, h, h{mask})"


def test_attention_operator() -> None:
    m = model(ATTENTION.format(mask=""), "int64[4] split = {1,-1,2,4}", opset=23)
    accept(m, [1, 2, 4, 4])


def test_attention_operator_with_baked_mask_is_refused() -> None:
    mask = f"float[9,9] m = {{{','.join(map(str, range(81)))}}}"
    refuse(model(ATTENTION.format(mask=", m"), f"int64[4] split = {{1,9,2,4}}, {mask}", opset=23), "Attention", "m ")


def test_attention_operator_with_other_keys_than_values_is_refused() -> None:
    body = "q = Reshape(x, split) h = Transpose<perm=[0,2,1,3]>(q) y = Attention(h, z, h)"
    m = model(body, "int64[4] split = {1,9,2,4}", x="float[1,9,8] x, float[1,2,9,4] z", opset=23)
    refuse(m, "only one of keys and values")


def test_causal_attention_to_a_sequence_of_its_own_is_refused() -> None:
    body = "q = Reshape(x, split) h = Transpose<perm=[0,2,1,3]>(q) y = Attention<is_causal={causal}>(h, z, z)"
    x = "float[1,9,8] x, float[1,2,9,4] z"
    refuse(model(body.format(causal=1), "int64[4] split = {1,9,2,4}", x=x, opset=23), "causal")
    prove(model(body.format(causal=0), "int64[4] split = {1,-1,2,4}", x=x, opset=23))


def test_gemm_with_a_table_as_bias_is_refused() -> None:
    table = f"float[9,5] t = {{{','.join(map(str, range(45)))}}}, float[5,8] w = {{{','.join('1' * 40)}}}"
    refuse(model("h = Squeeze(x, z) y = Gemm<transB=1>(h, w, t)", table + ", int64[1] z = {0}"), "Gemm", "t [9, 5]")


# Reshapes


def test_two_token_axes_do_not_merge() -> None:
    body = "t = Transpose<perm=[0,2,1]>(x) s = MatMul(x, t) y = Reshape(s, flat)"
    refuse(model(body, "int64[1] flat = {-1}"), "two token axes")


def test_two_dynamic_dimensions_stay_dynamic() -> None:
    m = model("y = Reshape(x, s)", "int64[3] s = {0,9,-1}", x='float["b",9,"d"] x')
    accept(m, [2, 4, 2], rewritten=1)


def test_open_dimension_needs_no_rewrite() -> None:
    accept(model("y = Reshape(x, s)", "int64[4] s = {0,-1,2,4}"), [1, 4, 2, 4])


def test_baked_count_is_rewritten_where_tokens_were_merged_with_a_batch_of_one() -> None:
    accept(
        model("h = Reshape(x, a) y = Reshape(h, b)", "int64[2] a = {9,8}, int64[3] b = {1,9,8}"), [1, 4, 8], rewritten=2
    )


def test_tokens_merged_into_a_batch_of_three_come_back() -> None:
    m = model(
        "h = Reshape(x, a) r = Relu(h) y = Reshape(r, b)",
        "int64[2] a = {27,8}, int64[3] b = {3,9,8}",
        x="float[3,9,8] x",
    )
    accept(m, [3, 4, 8], rewritten=2)


def test_tokens_joined_with_channels_meet_no_weights() -> None:
    m = model("h = Reshape(x, a) y = MatMul(h, w)", f"int64[2] a = {{1,72}}, float[72,1] w = {{{','.join('1' * 72)}}}")
    refuse(m, "MatMul", "w [72, 1]")


def test_grid_is_refused() -> None:
    refuse(model("y = Reshape(x, s)", "int64[4] s = {1,3,3,8}"), "Reshape", "grid")


def test_dynamic_batch_stays_dynamic() -> None:
    m = model("h = Relu(x) y = Reshape(h, s)", "int64[4] s = {-1,9,2,4}", x='float["b",9,8] x')
    accept(m, [2, 4, 2, 4], rewritten=1)


def test_shape_computed_from_the_tokens_follows_by_itself() -> None:
    body = """s = Shape(x) n = Gather(s, one) nn = Unsqueeze(n, z) t = Concat<axis=0>(o, nn, h) y = Reshape(x, t)"""
    accept(model(body, "int64 one = {1}, int64[1] z = {0}, int64[1] o = {1}, int64[2] h = {2,4}"), [1, 4, 2, 4])


def test_baked_count_in_a_computed_shape_is_rewritten() -> None:
    body = "s = Shape<start=0,end=1>(x) t = Concat<axis=0>(s, h) y = Reshape(x, t)"
    accept(model(body, "int64[3] h = {9,2,4}", x='float["b",9,8] x'), [2, 4, 2, 4], rewritten=1)


def test_shape_computed_from_content_is_refused() -> None:
    body = """m = ReduceMax<keepdims=0>(x, ax) c = Cast<to=7>(m) u = Reshape(c, o)
              t = Concat<axis=0>(u, u, h) y = Reshape(x, t)"""
    refuse(
        model(body, "int64[3] ax = {0,1,2}, int64[1] o = {1}, int64[2] h = {2,4}"), "output shape cannot be worked out"
    )


def test_flatten_joins_tokens() -> None:
    accept(model("y = Flatten<axis=2>(x)"), [4, 8])


def test_squeeze_and_unsqueeze_move_the_axis() -> None:
    m = model("h = Squeeze(x, z) u = Unsqueeze(h, t) y = Softmax<axis=1>(u)", "int64[1] z = {0}, int64[2] t = {0,2}")
    accept(m, [1, 4, 1, 8])


# Slices, splits, joins


def test_prefix_goes_and_the_baked_end_is_rewritten() -> None:
    weights = "int64[1] a = {1}, int64[1] e = {%s}, int64[1] i = {1}"
    accept(model("y = Slice(x, a, e, i)", weights % "9223372036854775807"), [1, 3, 8])
    accept(model("y = Slice(x, a, e, i)", weights % "9"), [1, 3, 8])


def test_end_inside_the_shorter_sequence_is_rewritten() -> None:
    body = "c = Concat<axis=1>(x, t) y = Slice(c, a, e, i)"
    weights = f"float[1,2,8] t = {{{','.join('1' * 16)}}}, int64[1] a = {{1}}, int64[1] e = {{9}}, int64[1] i = {{1}}"
    accept(model(body, weights), [1, 3, 8], rewritten=1)


def test_taking_the_prefix_alone_leaves_no_token_axis() -> None:
    m = model(
        "h = Slice(x, a, e, i) y = MatMul(w, h)",
        "int64[1] a = {0}, int64[1] e = {1}, int64[1] i = {1}, float[2,1] w = {1,1}",
    )
    accept(m, [1, 2, 8])


def test_after_one_of_two_prefix_tokens_went_one_is_left() -> None:
    body = "s = Slice(x, a, e, i) y = Gather<axis=1>(s, g)"
    weights = "int64[1] a = {1}, int64[1] e = {9}, int64[1] i = {1}, int64 g = {%s}"
    accept(model(body, weights % 0), [1, 8], prefix=2)
    refuse(model(body, weights % 1), "Gather", prefix=2)


def test_taking_a_table_as_long_as_the_tokens_is_refused() -> None:
    body = "n = Shape<start=1,end=2>(x) r = Slice(t, a, n, a) u = Unsqueeze(r, i) y = Add(x, u)"
    table = f"float[12] t = {{{','.join(map(str, range(12)))}}}"
    refuse(model(body, table + ", int64[1] a = {0}, int64[2] i = {0,2}"), "Slice", "t ")


def test_taking_some_tokens_is_refused() -> None:
    refuse(model("y = Slice(x, a, e, i)", "int64[1] a = {1}, int64[1] e = {5}, int64[1] i = {1}"), "Slice", "[1:5:1]")
    refuse(model("y = Slice(x, a, e, i)", "int64[1] a = {2}, int64[1] e = {9}, int64[1] i = {1}"), "[2:9:1]")


def test_every_second_token_is_refused() -> None:
    weights = "int64[1] a = {1}, int64[1] e = {9}, int64[1] i = {1}, int64[1] st = {2}"
    refuse(model("y = Slice(x, a, e, i, st)", weights), "[1:9:2]")


def test_split_of_the_prefix_is_rewritten() -> None:
    m = model("c, y = Split<axis=1>(x, s)", "int64[2] s = {1,8}")
    accept(m, [1, 3, 8], rewritten=1)


def test_split_in_halves_is_refused() -> None:
    refuse(model("c, y = Split<axis=1>(x, s)", "int64[2] s = {5,4}"), "Split")


def test_split_of_channels() -> None:
    accept(model("c, y = Split<axis=2, num_outputs=2>(x)"), [1, 4, 4])


def test_concat_of_channels_with_a_table_is_refused() -> None:
    m = model("y = Concat<axis=2>(x, t)", f"float[1,9,1] t = {{{','.join(map(str, range(9)))}}}")
    refuse(m, "Concat", "t ")


def test_two_spans_on_one_axis_are_refused() -> None:
    refuse(model("y = Concat<axis=1>(x, x)"), "2 spans")


def test_text_in_front_of_the_tokens_counts_as_prefix() -> None:
    body = "c = Concat<axis=1>(t, x) y = Slice(c, a, e, i)"
    weights = f"float[1,2,8] t = {{{','.join('1' * 16)}}}, int64[1] a = {{3}}, int64[1] e = {{11}}, int64[1] i = {{1}}"
    accept(model(body, weights), [1, 3, 8])


def test_gather_of_the_prefix() -> None:
    accept(model("y = Gather<axis=1>(x, i)", "int64 i = {0}"), [1, 8])


def test_gather_of_the_last_text_token_moves() -> None:
    body = "c = Concat<axis=1>(x, t) y = Gather<axis=1>(c, i)"
    m = model(body, "float[1,1,8] t = {1,2,3,4,5,6,7,8}, int64 i = {9}")
    accept(m, [1, 8], rewritten=1)
    assert run(m)[0].tolist() == [[1, 2, 3, 4, 5, 6, 7, 8]]


def test_gather_of_tokens_is_refused() -> None:
    refuse(model("y = Gather<axis=1>(x, i)", "int64[2] i = {0,3}"), "Gather", "i ")


def test_gather_on_channels() -> None:
    accept(model("y = Gather<axis=2>(x, i)", "int64[2] i = {0,7}"), [1, 4, 2])


def test_expand_with_a_baked_count_is_rewritten() -> None:
    body = "m = ReduceMean<keepdims=1>(x, c) y = Expand(m, s)"
    accept(model(body, "int64[1] c = {2}, int64[3] s = {1,9,8}"), [1, 4, 8], rewritten=1)


def test_shape_of_the_tokens_makes_a_tensor_of_their_size() -> None:
    accept(model("s = Shape(x) c = ConstantOfShape(s) y = Add(x, c)"), [1, 4, 8])


def test_numbering_the_tokens_is_refused() -> None:
    body = "s = Shape(x) n = Gather(s, one) r = Range(z, n, one) f = Cast<to=1>(r) u = Unsqueeze(f, ax) y = Add(x, u)"
    refuse(model(body, "int64 one = {1}, int64 z = {0}, int64[2] ax = {0,2}"), "Range")


def test_padding_counts_as_no_token() -> None:
    body = "p = Pad(x, pads) y = Slice(p, a, e, i)"
    weights = "int64[6] pads = {0,0,0,0,2,0}, int64[1] a = {0}, int64[1] e = {9}, int64[1] i = {1}"
    accept(model(body, weights), [1, 4, 8], rewritten=1)


def test_tile() -> None:
    accept(model("y = Tile(x, r)", "int64[3] r = {2,1,1}"), [2, 4, 8])
    refuse(model("y = Tile(x, r)", "int64[3] r = {1,2,1}"), "Tile", "repeats the token axis 1 2 times")


# Normalisation, reduction, windows


def test_layer_norm() -> None:
    accept(model("y = LayerNormalization<axis=-1>(x, w)", "float[8] w = {1,1,1,1,1,1,1,1}"), [1, 4, 8])


def test_layer_norm_over_tokens_is_refused() -> None:
    m = model("y = LayerNormalization<axis=1>(x, w)", f"float[9,8] w = {{{','.join('1' * 72)}}}")
    refuse(m, "LayerNormalization", "normalises over the token axis")


def test_mean_over_tokens() -> None:
    accept(
        model(
            "m = ReduceMean<keepdims=0>(x, a) y = MatMul(m, w)", "int64[1] a = {1}, float[8,1] w = {1,1,1,1,1,1,1,1}"
        ),
        [1, 1],
    )


def test_sum_over_tokens_is_refused() -> None:
    refuse(model("y = ReduceSum<keepdims=0>(x, a)", "int64[1] a = {1}"), "ReduceSum", "depends on how many")


def test_sum_over_channels() -> None:
    accept(model("y = ReduceSum<keepdims=0>(x, a)", "int64[1] a = {2}"), [1, 4])


def test_reduction_before_the_token_axis_shifts_it() -> None:
    accept(model("m = ReduceMax<keepdims=0>(x, a) y = Softmax<axis=0>(m)", "int64[1] a = {0}"), [4, 8])


def test_best_token_is_refused_best_channel_is_not() -> None:
    refuse(model("y = ArgMax<axis=1>(x)", y="int64 y"), "ArgMax")
    accept(model("y = ArgMax<axis=2, keepdims=0>(x)", y="int64 y"), [1, 4])


def test_window_over_tokens_is_refused() -> None:
    body = "t = Transpose<perm=[0,2,1]>(x) y = AveragePool<kernel_shape=[3]>(t)"
    refuse(model(body), "AveragePool", "window of 3")


def test_window_of_one_is_a_linear_layer() -> None:
    body = "t = Transpose<perm=[0,2,1]>(x) y = Conv<kernel_shape=[1]>(t, w)"
    accept(model(body, f"float[2,8,1] w = {{{','.join('1' * 16)}}}"), [1, 2, 4])


def test_tokens_as_channels_are_refused() -> None:
    refuse(model("y = Conv<kernel_shape=[1]>(x, w)", f"float[2,9,1] w = {{{','.join('1' * 18)}}}"), "Conv", "channels")


def test_topk_and_cumsum_along_tokens_are_refused() -> None:
    refuse(model("y, i = TopK<axis=1>(x, k)", "int64[1] k = {2}"), "TopK")
    refuse(model("y = CumSum(x, a)", "int64 a = {1}"), "CumSum")
    accept(model("y = CumSum(x, a)", "int64 a = {2}"), [1, 4, 8])


def test_parameters_per_token_are_refused() -> None:
    weights = ", ".join(f"float[9] {name} = {{1,1,1,1,1,1,1,1,1}}" for name in "abcd")
    refuse(
        model("y = BatchNormalization(x, a, b, c, d)", weights), "BatchNormalization", "a has one entry for each token"
    )


def test_squeeze_of_all_ones_would_take_a_single_token() -> None:
    m = model("y = Squeeze(x)")
    with pytest.raises(GraphError, match="single token"):
        prove_rest(m, m.graph.inputs[0], 1, OLD, 1)
    accept(model("y = Squeeze(x)"), [4, 8])


# What is not known


def test_unknown_operator_is_refused() -> None:
    refuse(model("y = Det(x)", x="float[1,9,9] x"), "Det", "not known")


def test_unknown_operator_behind_pooling_is_not_asked() -> None:
    body = "m = ReduceMean<keepdims=0>(x, a) r = Reshape(m, s) g = MatMul(r, t) y = Det(g)"
    weights = "int64[1] a = {1}, int64[3] s = {1,2,4}, float[1,4,2] t = {1,2,3,4,5,6,7,8}"
    accept(model(body, weights), [1])


def test_subgraph_that_reads_tokens_is_refused() -> None:
    body = "y = If<then_branch = t () => (float a) { a = Relu(x) }, else_branch = e () => (float b) { b = Abs(x) }>(c)"
    refuse(model(body, "bool c = {1}"), "If", "subgraph reads x")


def test_local_function_is_refused() -> None:
    text = """<ir_version: 10, opset_import: ["" : 18, "f" : 1]> g (float[1,9,8] x) => (float[1,9,8] y) { y = f.act(x) }
              <domain: "f", opset_import: ["" : 18]> act (a) => (b) { b = Relu(a) }"""
    refuse(ir.from_proto(onnx.parser.parse_model(text)), "local function f::act")


@pytest.mark.parametrize(
    ("claim", "words"),
    [
        ({1: Axis(9, 5, 1)}, "shape inference gives h [1, 4, 8] where [1, 5, 8] was worked out"),
        ({2: Axis(9, 4, 1)}, "h is declared as [1, 9, 8], but axis 2 has 9 entries"),
    ],
)
def test_a_wrong_rule_is_caught(monkeypatch: pytest.MonkeyPatch, claim: dict[int, Axis], words: str) -> None:
    monkeypatch.setitem(rest_rules.RULES, "Relu", lambda rest, node: [claim])
    refuse(model("h = Relu(x) y = ReduceMean(h)"), words)


def test_plan_reads_only() -> None:
    m = model("y = Reshape(x, s)", "int64[2] s = {9,8}")
    before = onnx.printer.to_text(ir.to_proto(m))
    plan = plan_rest(m, m.graph.inputs[0], 1, OLD, NEW, prefix=1)
    assert len(plan.edits) == 1
    assert onnx.printer.to_text(ir.to_proto(m)) == before


def test_shapes_that_the_file_lacks_are_inferred_first() -> None:
    m = model("h = Relu(x) y = Reshape(h, s)", "int64[2] s = {9,8}")
    m.graph.node(0).outputs[0].shape = None
    accept(m, [4, 8], rewritten=1)
