import numpy as np
import pytest
from body_runner import body_model, body_session, every_way
from tokexport.errors import RequestError
from tokexport.graph_passes.agreement import compare
from tokexport.graph_passes.compressors import Case, make

ATTENTION = np.array([[0.3, 0.1, 0.1, 0.1, 0.1, 0.4]], np.float32)
SLOWLY = {"drop": 1}


def kept(tokens, attention, keep, params):
    """The positions that every implementation keeps."""
    case = Case(*tokens.shape[1:], keep)
    got = every_way(make("vispruner", params), case, tokens, cls_attention=attention)
    (positions,) = {tuple(result.kept_indices[0].tolist()) for result in got.values()}
    return list(positions)


def test_worked_example():
    # Important: 5 and 0. A = 1, 3 and B = 2, 4: 1 is most like 2, and goes. Of 3, 2, 4 then A = 3, 4 and B = 2: 4 is
    # the opposite of 2, and 3 goes.
    tokens = np.array([[[5, 5], [1, 0], [1, 0.1], [0, 1], [-1, 0], [5, 5]]], np.float32)
    assert kept(tokens, ATTENTION, 4, SLOWLY) == [0, 2, 4, 5]
    # Both of A at once.
    assert kept(tokens, ATTENTION, 4, {}) == [0, 2, 4, 5]
    # Only 5 is important: A = 0, 2, 4 and B = 1, 3, and 2 goes; of 0, 4, 1, 3 then A = 0, 1 and B = 4, 3, and 0 goes.
    assert kept(tokens, ATTENTION, 4, {"important": 0.25, "drop": 1}) == [1, 3, 4, 5]


def test_the_list_is_by_attention_and_similarity_does_not_see_lengths():
    # Behind the important 0 the list is 4, 3, 2, 1: A = 4, 2 and B = 3, 1. 2 is most like 3, though 4 is longer.
    tokens = np.array([[[0, 0, 0], [0, 0, 1], [0.1, 1, 0], [0, 2, 0], [90, 90, 0]]], np.float32)
    attention = np.array([[0.5, 0.1, 0.2, 0.3, 0.4]], np.float32)
    assert kept(tokens, attention, 4, {"important": 0.25, "drop": 1}) == [0, 1, 3, 4]


def test_copies_tie_and_the_first_in_the_list_is_dropped_also_from_an_odd_list():
    # Behind the important 0 the list is 1..5; A = 1, 3, 5 goes whole, then 2.
    copies, nothing = np.ones((1, 6, 3), np.float32) / 3, np.zeros((1, 6), np.float32)
    assert kept(copies, nothing, 2, {}) == [0, 4]
    assert kept(copies, nothing, 5, {"important": 0.2}) == [0, 2, 3, 4, 5]


def test_all_important_is_a_ranking_by_attention():
    assert kept(np.ones((1, 6, 2), np.float32), ATTENTION, 3, {"important": 1}) == [0, 1, 5]


@pytest.mark.parametrize(("turn", "ok"), [(1e-7, True), (1e-2, False)])
def test_a_drop_may_fall_either_way_where_rounding_decides(turn, ok):
    # 1 and 3 are both near the middle between two steps of similarity to 2.
    method, case = make("vispruner", {"important": 0.4, "drop": 1}), Case(5, 2, 4)
    cosine = 2048.5 / 4096
    near = [(cosine + shift, np.sqrt(1 - cosine**2)) for shift in (turn, -turn)]
    tokens = np.array([[[-9, 0], near[0], [1, 0], near[1], [-9, 0]]], np.float32)
    attention = np.array([[0.5, 0.4, 0.3, 0.2, 0.1]], np.float32)
    other = tokens[:, [0, 3, 2, 1, 4]]
    got = body_session(method, case)(other, cls_attention=attention)
    agreement = compare(method, case, tokens, got, {"cls_attention": attention}, min_cosine=0.9, max_norm_ratio=0.1)
    assert got.kept_indices.tolist() == [[0, 1, 2, 4]]
    assert agreement.ok == ok, agreement


def test_wrong_requests():
    with pytest.raises(RequestError, match=r"keep 0 is outside 1\.\.5"):
        make("vispruner").check(Case(5, 1, 0))
    with pytest.raises(RequestError, match=r"important 1\.5 is outside 0\.\.1"):
        make("vispruner", {"important": 1.5})
    with pytest.raises(RequestError, match="drop 0 is below 1"):
        make("vispruner", {"drop": 0})


def test_body_size():
    for exact_ties in (False, True):
        (function,) = body_model(make("vispruner"), Case(576, 64, 128), exact_ties=exact_ties).functions.values()
        assert len(function) < 1200
