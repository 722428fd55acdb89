"""The proof behind a seam, one rule each: products, and attention over the tokens."""

from __future__ import annotations

from toy_downstream import accept, model, prove, refuse


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
