"""The proof behind a seam, one rule each: slices, splits, gathers and joins of the tokens."""

from __future__ import annotations

from toy_downstream import accept, model, refuse, run


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


def test_text_before_the_tokens_counts_as_prefix() -> None:
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


def test_padding_does_not_count_as_tokens() -> None:
    body = "p = Pad(x, pads) y = Slice(p, a, e, i)"
    weights = "int64[6] pads = {0,0,0,0,2,0}, int64[1] a = {0}, int64[1] e = {9}, int64[1] i = {1}"
    accept(model(body, weights), [1, 4, 8], rewritten=1)


def test_tile() -> None:
    accept(model("y = Tile(x, r)", "int64[3] r = {2,1,1}"), [2, 4, 8])
    refuse(model("y = Tile(x, r)", "int64[3] r = {1,2,1}"), "Tile", "repeats the token axis 1 2 times")
