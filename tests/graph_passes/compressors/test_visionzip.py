import numpy as np
import pytest
from body_runner import body_model, body_session, every_way
from tokexport.errors import RequestError
from tokexport.graph_passes.agreement import compare
from tokexport.graph_passes.compressors import Case, make

TOKENS = np.array([1, 2, 4, 8, 16, 32], np.float32).reshape(1, 6, 1)
ATTENTION = np.array([[0.1, 0.3, 0.1, 0.1, 0.3, 0.1]], np.float32)
ROWS = np.eye(6, dtype=np.float32)


@pytest.mark.parametrize(("merge", "content"), [("add", 1 + (4 + 8 + 32) / 3), ("mean", (1 + 4 + 8 + 32) / 4)])
def test_one_contextual_slot_merges_all_that_is_not_dominant(merge, content):
    signals = {"cls_attention": ATTENTION, "keys": np.ones((1, 6, 6), np.float32)}
    method = make("visionzip", {"contextual": 1, "merge": merge})
    for way, got in every_way(method, Case(6, 1, 3), TOKENS, **signals).items():
        assert got.kept_indices.tolist() == [[0, 1, 4]], way
        np.testing.assert_allclose(got.tokens[0, :, 0], [content, 2, 16], rtol=1e-6, err_msg=way)
        assert got.sizes.tolist() == [[4, 1, 1]], way
        assert got.assignment.tolist() == [[0, 1, 0, 0, 2, 0]], way


def test_others_go_to_the_target_of_the_most_similar_key_whatever_its_length():
    # Of the rest 0, 2, 3, 5 every second one is a target: 0 and 3. Token 2 has the direction of 3, token 5 that of 0.
    keys = np.stack([ROWS[0], ROWS[1], ROWS[2] / 99 + ROWS[0] / 999, ROWS[2] / 9, ROWS[3], 9 * ROWS[0]])[None]
    signals = {"received_attention": ATTENTION, "keys": keys}
    method = make("visionzip", {"contextual": 2, "attention": "received"})
    for way, got in every_way(method, Case(6, 1, 4), TOKENS, **signals).items():
        assert got.kept_indices.tolist() == [[0, 1, 3, 4]], way
        assert got.tokens[0, :, 0].tolist() == [1 + 32, 2, 8 + 4, 16], way
        assert got.sizes.tolist() == [[2, 1, 2, 1]], way
        assert got.assignment.tolist() == [[0, 1, 2, 2, 3, 0]], way


def test_a_step_is_rounded_down_and_equal_keys_go_to_the_first_target():
    # Four of five are the rest behind token 0: with three targets the step is 1.
    tokens = np.array([1, 2, 4, 8, 16], np.float32).reshape(1, 5, 1)
    signals = {"cls_attention": np.float32([[1, 0, 0, 0, 0]]), "keys": np.ones((1, 5, 6), np.float32)}
    for way, got in every_way(make("visionzip", {"contextual": 3}), Case(5, 1, 4), tokens, **signals).items():
        assert got.kept_indices.tolist() == [[0, 1, 2, 3]], way
        assert got.tokens[0, :, 0].tolist() == [1, 2 + 16, 4, 8], way


def test_contextual_slots_are_as_many_as_in_the_paper():
    assert [make("visionzip").contexts(Case(576, 8, keep)) for keep in (64, 128, 192)] == [10, 20, 30]
    assert [make("visionzip").contexts(Case(576, 8, keep)) for keep in (63, 127, 191)] == [10, 20, 30]


def test_without_contextual_slots_the_rest_is_lost():
    signals = {"cls_attention": ATTENTION, "keys": np.ones((1, 6, 6), np.float32)}
    for way, got in every_way(make("visionzip"), Case(6, 1, 2), TOKENS, **signals).items():
        assert got.kept_indices.tolist() == [[1, 4]], way
        assert got.assignment.tolist() == [[-1, 0, -1, -1, 1, -1]], way


@pytest.mark.parametrize(("turn", "ok"), [(1e-7, True), (1e-3, False)])
def test_a_merge_may_go_either_way_where_rounding_decides(turn, ok):
    method, case = make("visionzip", {"contextual": 2}), Case(6, 1, 4)
    keys = np.stack([*ROWS[:5], ROWS[0] + (1 + turn) * ROWS[3]])[None].astype(np.float32)
    other = keys.copy()
    other[0, 5] = (1 + turn) * ROWS[0] + ROWS[3]
    got = body_session(method, case)(TOKENS, cls_attention=ATTENTION, keys=other)
    assert got.assignment[0, 5] == 0
    assert compare(method, case, TOKENS, got, {"cls_attention": ATTENTION, "keys": keys}).ok == ok


@pytest.mark.parametrize("contextual", [3, -1])
def test_some_slots_are_dominant(contextual):
    with pytest.raises(RequestError, match=rf"{contextual} contextual slots of 3.*contextual=0 to 2"):
        make("visionzip", {"contextual": contextual}).check(Case(9, 8, 3))


def test_body_size():
    (function,) = body_model(make("visionzip"), Case(576, 64, 128)).functions.values()
    assert len(function) < 130
