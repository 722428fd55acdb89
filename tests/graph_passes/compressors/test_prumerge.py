import numpy as np
import pytest
from body_runner import body_model, body_session, every_way
from tokexport.errors import RequestError
from tokexport.graph_passes.agreement import compare
from tokexport.graph_passes.compressors import Case, make

TOKENS = np.array([1, 2, 4, 8, 16], np.float32).reshape(1, 5, 1)
ATTENTION = np.array([[0.1, 0.3, 0.2, 0.3, 0.1]], np.float32)
ONE = {"neighbours": 1}
ROWS = np.eye(6, dtype=np.float32)


def keys(*rows):
    return np.stack(rows)[None].astype(np.float32)


@pytest.mark.parametrize(
    ("given_keys", "content"),
    [
        # The most similar key is that of a token that is not kept, of one that is, and of every token.
        (keys(ROWS[0], ROWS[0] + ROWS[1] / 9, ROWS[1], ROWS[2] + ROWS[3] / 9, ROWS[2]), [2 + 0.1, 8 + 1.6]),
        (keys(ROWS[0], ROWS[1], ROWS[2], ROWS[1], ROWS[3]), [2 + 2.4, 8 + 0.6]),
        (keys(*[ROWS[0]] * 5), [2 + 0.1, 8 + 0.1]),
    ],
)
def test_neighbours_are_added_by_attention_and_the_others_are_fused(given_keys, content):
    signals = {"cls_attention": ATTENTION, "keys": given_keys}
    for way, got in every_way(make("prumerge", ONE), Case(5, 1, 3), TOKENS, **signals).items():
        assert got.kept_indices.tolist() == [[1, 2, 3]], way
        fused = 0.1 * 1 + 0.2 * 4 + 0.1 * 16
        np.testing.assert_allclose(got.tokens[0, :, 0], [content[0], fused, content[1]], rtol=1e-6, err_msg=way)
        assert got.sizes.tolist() == [[1, 1, 1]], way
        assert got.assignment.tolist() == [[-1, 0, 1, 2, -1]], way


def test_several_neighbours_are_the_most_similar_without_the_token_itself():
    angles = np.deg2rad([0, 50, 10, 90, 30])
    signals = {"cls_attention": ATTENTION, "keys": keys(*(np.cos(a) * ROWS[0] + np.sin(a) * ROWS[1] for a in angles))}
    for way, got in every_way(make("prumerge", {"neighbours": 3}), Case(5, 1, 3), TOKENS, **signals).items():
        expected = [2 + 0.2 * 4 + 0.3 * 8 + 0.1 * 16, 2.5, 8 + 0.3 * 2 + 0.2 * 4 + 0.1 * 16]
        np.testing.assert_allclose(got.tokens[0, :, 0], expected, rtol=1e-6, err_msg=way)


def test_plus_keeps_half_at_equal_steps_and_no_token_twice():
    # Places 2 and 6; of the others 3 and 7 are the largest, and 1 is next.
    attention = np.array([[0.05, 0.1, 0.3, 0.2, 0.1, 0.05, 0, 0.15]], np.float32)
    signals = {"received_attention": attention, "keys": np.zeros((1, 8, 6), np.float32)}
    method = make("prumerge", {"plus": True, "neighbours": 1, "attention": "received"})
    for way, got in every_way(method, Case(8, 1, 5), np.ones((1, 8, 1), np.float32), **signals).items():
        assert got.kept_indices.tolist() == [[1, 2, 3, 6, 7]], way
        assert got.assignment.tolist() == [[-1, 0, 1, 2, -1, -1, 3, 4]], way
        # Keys of zeros are all equally similar: the first other token is the neighbour.
        np.testing.assert_allclose(got.tokens[0, :, 0], [0.3, 1.05, 1.05, 1.05, 1.05], rtol=1e-6, err_msg=way)


@pytest.mark.parametrize(("turn", "ok"), [(1e-7, True), (1e-3, False)])
def test_neighbours_may_change_places_where_rounding_decides(turn, ok):
    method, case = make("prumerge", ONE), Case(5, 1, 3)
    near = keys(ROWS[0] + (1 + turn) * ROWS[1], ROWS[1], ROWS[2], ROWS[3], ROWS[0] + ROWS[1])
    got = body_session(method, case)(TOKENS, cls_attention=ATTENTION, keys=near[:, [4, 1, 2, 3, 0]])
    assert compare(method, case, TOKENS, got, {"cls_attention": ATTENTION, "keys": near}).ok == ok


def test_the_mean_of_the_rest_has_its_size():
    method, signals = make("prumerge", {**ONE, "rest": "mean"}), {"cls_attention": ATTENTION, "keys": keys(*ROWS[:5])}
    for way, got in every_way(method, Case(5, 1, 3), TOKENS, **signals).items():
        np.testing.assert_allclose(got.tokens[0, :, 0], [2.1, 7, 8.1], rtol=1e-6, err_msg=way)
        assert got.sizes.tolist() == [[1, 3, 1]], way
        assert got.assignment.tolist() == [[1, 0, 1, 2, 1]], way


def test_wrong_requests():
    with pytest.raises(RequestError, match=r"keep 40 is outside 2\.\.39"):
        make("prumerge").check(Case(40, 1, 40))
    with pytest.raises(RequestError, match=r"fewer than 32 neighbours.*neighbours=15 or fewer"):
        make("prumerge").check(Case(16, 1, 4))
    with pytest.raises(RequestError, match=r"neighbours 0 is below 1.*evit"):
        make("prumerge", {"neighbours": 0})


def test_body_size():
    (function,) = body_model(make("prumerge", {"plus": True}), Case(576, 64, 128)).functions.values()
    assert len(function) < 120
