import numpy as np
import pytest
from body_runner import body_model, every_way
from tokexport.errors import RequestError
from tokexport.graph_passes.compressors import Case, make

# Two tokens along x, three along y, one along z: orthogonal groups, so that a pick covers its group and no other.
GROUPS = np.array([[1, 0, 0], [0, 2, 0], [0, 1, 0], [3, 0, 0], [0, 4, 0], [0, 0, 1]], np.float32)[None]


def attention(*levels):
    return np.array([levels], np.float32)


def kept(params, keep, weights):
    name = f"{params.get('attention', 'cls')}_attention"
    results = every_way(make("scope", params), Case(6, 3, keep), GROUPS, **{name: weights})
    (positions,) = {tuple(got.kept_indices[0].tolist()) for got in results.values()}
    return positions


def test_the_largest_group_is_covered_first():
    equal = attention(0.5, 0.5, 0.5, 0.5, 0.5, 0.5)
    assert kept({}, 1, equal) == (1,)
    assert kept({}, 2, equal) == (0, 1)
    assert kept({}, 3, equal) == (0, 1, 5)


def test_after_full_coverage_the_lowest_index_is_picked():
    assert kept({}, 5, attention(0.5, 0.5, 0.5, 0.5, 0.5, 0.5)) == (0, 1, 2, 3, 5)


def test_attention_weights_the_gain():
    # z gains 1 times 0.9, y 3 times 0.2, of which token 2 has the most, x 2 times 0.2.
    weights = attention(0.2, 0.1, 0.2, 0.1, 0.1, 0.9)
    assert kept({}, 1, weights) == (5,)
    assert kept({}, 2, weights) == (2, 5)
    assert kept({"alpha": 0}, 1, weights) == (1,)
    # Squared: y 3 * .04, x 2 * .04, both far below z; cubed no different, and the order in y stays.
    assert kept({"alpha": 2.0}, 3, weights) == (0, 2, 5)


def test_without_cls_what_is_received_counts():
    assert make("scope", {"attention": "received"}).signals() == ("received_attention",)
    assert kept({"attention": "received"}, 1, attention(0, 0, 0, 0, 0, 1)) == (5,)


def test_opposite_tokens_cover_nothing_of_each_other():
    tokens = np.array([[1, 0], [-1, 0], [1, 0]], np.float32)[None]
    weights = attention(1, 1, 1)
    for way, got in every_way(make("scope"), Case(3, 2, 2), tokens, cls_attention=weights).items():
        assert got.kept_indices.tolist() == [[0, 1]], way
        assert got.assignment.tolist() == [[0, 1, -1]], way


def test_wrong_requests():
    with pytest.raises(RequestError, match=r"keep 0 is outside 1\.\.9"):
        make("scope").check(Case(9, 8, 0))
    with pytest.raises(RequestError, match=r"alpha -1.0 is outside 0\.\.10"):
        make("scope", {"alpha": -1})


def test_body_size():
    (function,) = body_model(make("scope"), Case(576, 64, 128)).functions.values()
    assert len(function) < 1350
