"""The proof behind a seam, one rule each: token counts in reshapes, baked or computed."""

from __future__ import annotations

from toy_downstream import accept, model, refuse


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


def test_tokens_merged_with_channels_cannot_be_multiplied_with_weights() -> None:
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
    refuse(model(body, "int64[3] ax = {0,1,2}, int64[1] o = {1}, int64[2] h = {2,4}"), "output shape cannot be derived")


def test_flatten_joins_tokens() -> None:
    accept(model("y = Flatten<axis=2>(x)"), [4, 8])


def test_squeeze_and_unsqueeze_move_the_axis() -> None:
    m = model("h = Squeeze(x, z) u = Unsqueeze(h, t) y = Softmax<axis=1>(u)", "int64[1] z = {0}, int64[2] t = {0,2}")
    accept(m, [1, 4, 1, 8])
