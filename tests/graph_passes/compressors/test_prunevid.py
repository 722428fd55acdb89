import numpy as np
import pytest
from body_runner import body_model, every_way
from tokexport.errors import RequestError
from tokexport.graph_passes.compressors import Case, make

# Two segments of two frames of four places. In the first, places 1 and 2 stand still; in the second, 0 and 3 do.
X, Y, Z = [8, 0], [0, 6], [5, 5]
VIDEO = np.array([X, X, Z, Y, Y, X, Z, X, Y, X, Y, Z, Y, Z, X, Z], np.float32)[None]


def outcome(method, params, keep, tokens=VIDEO, grid=(4, 1, 4), **signals):
    """Kept positions, assignment and tokens, the same in every way."""
    case, found = Case(tokens.shape[1], tokens.shape[2], keep, grid=grid), []
    for got in every_way(make(method, params), case, tokens, **signals).values():
        found.append((got.kept_indices[0].tolist(), got.assignment[0].tolist(), got.sizes[0].tolist()))
        content = got.tokens[0]
    assert all(one == found[0] for one in found), found
    return (*found[0], content)


def test_still_places_become_one_frame():
    kept, assignment, sizes, content = outcome("prunevid", {"segment": 2, "static": 0.5}, 12)
    assert kept == [0, 1, 2, 3, 4, 7, 8, 9, 10, 11, 13, 14]
    assert assignment == [0, 1, 2, 3, 4, 1, 2, 5, 6, 7, 8, 9, 6, 10, 11, 9]
    assert sizes == [1, 2, 2, 1, 1, 1, 2, 1, 1, 2, 1, 1]
    np.testing.assert_allclose(content, VIDEO[0, kept], rtol=1e-6)


def test_every_set_is_clustered():
    # One slot for each of two static sets and four dynamic ones: the mean of all tokens of a set.
    kept, assignment, sizes, content = outcome("prunevid", {"segment": 2, "static": 0.5}, 6)
    assert assignment == [0, 1, 1, 0, 2, 1, 1, 2, 3, 4, 4, 3, 3, 5, 5, 3]
    assert sizes == [2, 4, 2, 4, 2, 2]
    for slot in range(6):
        np.testing.assert_allclose(content[slot], VIDEO[0, np.array(assignment) == slot].mean(0), rtol=1e-6)
        assert assignment[kept[slot]] == slot


def test_a_cluster_of_means_weighs_all_tokens_alike():
    # One segment of three frames whose places all stand still, two near each other.
    tokens = np.array([[9, 0], [0, 4], [0, 5], [9, 3], [0, 4], [0, 5], [9, 0], [0, 4], [0, 5]], np.float32)[None] / 10
    kept, assignment, sizes, content = outcome("prunevid", {"static": 1}, 2, tokens, (3, 1, 3))
    assert kept == [0, 1]
    assert assignment == [0, 1, 1] * 3
    assert sizes == [3, 6]
    np.testing.assert_allclose(content, [[0.9, 0.1], [0, 0.45]], rtol=1e-6)


def test_the_mean_over_all_pairs_decides():
    # Place 0 turns away and comes back; place 1 turns a little further each time, which all pairs of three see less.
    angles = np.deg2rad([[0, 0], [40, 25], [0, 50]])
    tokens = np.stack([np.cos(angles), np.sin(angles)], 2).reshape(1, 6, 2).astype(np.float32)
    _, assignment, _, _ = outcome("prunevid", {"static": 0.5}, 4, tokens, (3, 1, 2))
    # Pairs: 40, 40, 0 against 25, 25, 50 degrees: mean cosines .844 and .818.
    assert assignment == [0, 1, 0, 2, 0, 3]


def test_layout():
    layout = make("prunevid").layout(Case(1152, 8, 288, grid=(8, 12, 12)))
    assert (layout.lengths, layout.static) == ([4, 4], 72)
    assert sum(layout.static_counts + layout.dynamic_counts) == 288
    assert make("prunevid", {"segment": 3}).layout(Case(70, 8, 40, grid=(7, 2, 5))).lengths == [2, 2, 3]
    # Half of the places would leave 6 x 2 + 6 x 4 tokens: fewer are static.
    assert make("prunevid").layout(Case(48, 8, 40, grid=(4, 3, 4))).static == 2


def test_wrong_requests():
    with pytest.raises(
        RequestError, match=r"keep 5 is outside 6\.\.12: 2 of 4 positions are static in 2 segments of 4"
    ):
        make("prunevid", {"segment": 2, "static": 0.5}).check(Case(16, 2, 5, grid=(4, 1, 4)))
    with pytest.raises(RequestError, match=r"keep 17 is outside 1\.\.16"):
        make("prunevid").check(Case(16, 2, 17, grid=(4, 1, 4)))
    with pytest.raises(RequestError, match=r"static=0\.5, but every segment has a single frame"):
        make("prunevid", {"segment": 1, "static": 0.5}).check(Case(16, 2, 8, grid=(4, 1, 4)))
    with pytest.raises(RequestError, match=r"segment 0 is below 1"):
        make("prunevid", {"segment": 0})
    with pytest.raises(RequestError, match=r"static 2\.0 is outside 0\.\.1"):
        make("prunevid", {"static": 2})


def test_all_tokens_kept_is_the_identity():
    kept, assignment, _, content = outcome("prunevid", {}, 16)
    assert kept == assignment == list(range(16))
    np.testing.assert_array_equal(content, VIDEO[0])


def test_body_size():
    (function,) = body_model(make("prunevid"), Case(2304, 64, 576, grid=(16, 12, 12))).functions.values()
    assert len(function) < 600
