import numpy as np
import pytest
from body_runner import body_model, every_way
from tokexport.errors import RequestError
from tokexport.graph_passes.compressors import Case, make

GRID = (4, 1, 2)
# Place 0 moves by 0, 4, 1; place 1 by 2, 0, 1. Only the last step of place 0 turns.
VIDEO = np.array([[1, 0], [0, 1], [1, 0], [0, 3], [5, 0], [0, 3], [5, 1], [0, 4]], np.float32)[None]


def outcome(params, keep):
    case, found = Case(8, 2, keep, grid=GRID), []
    for way, got in every_way(make("lftr", params), case, VIDEO).items():
        slots = got.assignment[0]
        for slot in range(keep):
            np.testing.assert_allclose(got.tokens[0, slot], VIDEO[0, slots == slot].mean(0), rtol=1e-6, err_msg=way)
        assert got.sizes.tolist() == [np.bincount(slots[slots >= 0]).tolist()], way
        found.append((got.kept_indices[0].tolist(), slots.tolist()))
    assert all(one == found[0] for one in found), found
    return found[0]


def test_what_moves_least_is_merged_into_the_time_before():
    # Runs of place 0 begin at 0 and 2, of place 1 at 0 and 1: two frames are left, which hold different times.
    assert outcome({}, 4) == ([0, 1, 3, 4], [0, 1, 0, 2, 3, 2, 3, 2])


def test_a_frame_keeps_what_is_most_like_its_mean():
    # In the first both are; in the second (5, 0.5) is more than (0, 3.3).
    assert outcome({}, 2) == ([0, 4], [0, -1, 0, -1, 1, -1, 1, -1])
    assert outcome({}, 3) == ([0, 3, 4], [0, -1, 0, 1, 2, 1, 2, 1])
    # More than one of two frames; the last is left out first.
    assert outcome({}, 1) == ([4], [-1, -1, -1, -1, 0, -1, 0, -1])


def test_similarity_sees_turns_only():
    assert outcome({"weight": "similarity"}, 4) == ([0, 1, 3, 6], [0, 1, 0, 2, 0, 2, 3, 2])


def test_fewer_frames_are_merged_where_more_is_kept():
    assert outcome({}, 6) == ([0, 1, 3, 4, 6, 7], [0, 1, 0, 2, 3, 2, 4, 5])
    assert outcome({}, 8) == (list(range(8)), list(range(8)))
    assert outcome({"merged": 0.75}, 2) == ([0, 1], [0, 1] * 4)
    assert outcome({"merged": 0}, 4)[1].count(-1) == 4


def test_wrong_requests():
    with pytest.raises(RequestError, match=r"keep 5 is more than merged=0\.5 leaves: 2 frames of 2.*--keep 1 to 4"):
        make("lftr", {"merged": 0.5}).check(Case(8, 2, 5, grid=GRID))
    with pytest.raises(RequestError, match=r"keep 9 is outside 1\.\.8"):
        make("lftr").check(Case(8, 2, 9, grid=GRID))
    with pytest.raises(RequestError, match=r"merged 1\.0 is outside 0\.\.1"):
        make("lftr", {"merged": 1})


def test_body_size():
    (function,) = body_model(make("lftr"), Case(1152, 64, 288, grid=(8, 12, 12))).functions.values()
    assert len(function) < 160
