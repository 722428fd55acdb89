import numpy as np
import pytest
from body_runner import body_model, every_way
from tokexport.errors import RequestError
from tokexport.graph_passes.compressors import Case, make


def directions(*degrees):
    """Tokens [1, N, 2] of length 1."""
    angles = np.deg2rad(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], 1)[None].astype(np.float32)


def kept(params, keep, tokens, grid):
    case, found = Case(tokens.shape[1], tokens.shape[2], keep, grid=grid), []
    for way, got in every_way(make("longvu", params), case, tokens).items():
        found.append(got.kept_indices[0].tolist())
        np.testing.assert_array_equal(got.tokens[0], tokens[0, found[-1]], err_msg=way)
    assert all(one == found[0] for one in found), found
    return found[0]


# Four frames of one place.
LINE = directions(60, 10, 0, 0)


def test_a_window_keeps_its_middle_frame_and_what_is_least_like_it():
    assert kept({}, 2, LINE, (4, 1, 1)) == [0, 2]
    # At 10 degrees it is nearer to all others than at 0.
    assert kept({}, 3, LINE, (4, 1, 1)) == [0, 2, 3]
    assert kept({"window": 2}, 2, LINE, (4, 1, 1)) == [1, 3]
    assert kept({"window": 2}, 3, LINE, (4, 1, 1)) == [1, 2, 3]
    # The first of the kept frames stays whole.
    assert kept({}, 1, LINE, (4, 1, 1)) == [0]
    assert kept({"frames": 0.25}, 1, LINE, (4, 1, 1)) == [2]
    assert kept({}, 4, LINE, (4, 1, 1)) == [0, 1, 2, 3]


def test_a_chunk_keeps_its_first_frame_and_what_is_least_like_it_there():
    # Frames 1 and 3 are kept. Place 0 stands still, place 1 turns by 90, place 2 by 20.
    tokens = directions(7, 8, 9, 0, 0, 0, 7, 8, 9, 0, 90, 20)
    params = {"window": 2, "frames": 0.5}
    assert kept(params, 3, tokens, (4, 1, 3)) == [3, 4, 5]
    assert kept(params, 4, tokens, (4, 1, 3)) == [3, 4, 5, 10]
    assert kept(params, 5, tokens, (4, 1, 3)) == [3, 4, 5, 10, 11]
    assert kept(params, 6, tokens, (4, 1, 3)) == [3, 4, 5, 9, 10, 11]


def test_chunks_share_what_is_left():
    # All frames are kept, in chunks of two; each has one token more than its first frame.
    tokens = directions(0, 0, 0, 5, 0, 0, 30, 5)
    assert kept({"chunk": 2, "frames": 1}, 6, tokens, (4, 1, 2)) == [0, 1, 3, 4, 5, 6]
    assert kept({"chunk": 2, "frames": 1}, 5, tokens, (4, 1, 2)) == [0, 1, 4, 5, 6]


def test_plan():
    plan = make("longvu").plan(Case(36 * 4, 8, 40, grid=(36, 2, 2)))
    assert (plan.windows, plan.frames, plan.chunks) == ([16, 16, 4], [7, 8, 3], [8, 8, 2])
    assert plan.tokens == [13, 13, 2]
    assert sum(make("longvu").plan(Case(36 * 4, 8, 4, grid=(36, 2, 2))).chunks) == 8
    assert sum(make("longvu").plan(Case(36 * 4, 8, 101, grid=(36, 2, 2))).chunks) == 26


def test_wrong_requests():
    with pytest.raises(RequestError, match=r"keep 3 is outside 4\.\.32: 1 of 8 frames are kept whole"):
        make("longvu").check(Case(36 * 4, 8, 3, grid=(36, 2, 2)))
    with pytest.raises(RequestError, match=r"keep 80 is outside 12\.\.72.*--keep 12 to 72"):
        make("longvu", {"frames": 0.5}).check(Case(36 * 4, 8, 80, grid=(36, 2, 2)))
    with pytest.raises(RequestError, match=r"each of 18 windows keeps a frame, and 8 frames.*--keep 12 or more"):
        make("longvu", {"window": 2}).check(Case(36 * 4, 8, 4, grid=(36, 2, 2)))
    with pytest.raises(RequestError, match="chunk 1 below 2"):
        make("longvu", {"chunk": 1})
    with pytest.raises(RequestError, match=r"frames 0\.0 is not a share"):
        make("longvu", {"frames": 0})


def test_body_size():
    (function,) = body_model(make("longvu"), Case(4608, 64, 1152, grid=(32, 12, 12))).functions.values()
    assert len(function) < 200
