import numpy as np
import pytest
from body_runner import body_model, every_way
from tokexport.errors import RequestError
from tokexport.graph_passes.compressors import Case, make


def kept(attention, keep, crops):
    """The positions that every implementation keeps."""
    signal = np.array([attention], np.float32)
    tokens = np.arange(len(attention), dtype=np.float32).reshape(1, -1, 1)
    got = every_way(make("holov", {"crops": crops}), Case(len(attention), 1, keep), tokens, cls_attention=signal)
    (positions,) = {tuple(result.kept_indices[0].tolist()) for result in got.values()}
    assert all(result.tokens[0, :, 0].tolist() == list(positions) for result in got.values())
    return list(positions)


def test_crops_share_k_by_mean_attention():
    # 4 x 3/4 and 4 x 1/4: the best three of the first crop and the best of the other.
    assert kept([0.375, 0.25, 0.0625, 0.0625, 0.0, 0.125, 0.125, 0.0], 4, 2) == [0, 1, 2, 5]


def test_remaining_slots_go_to_the_crop_of_the_largest_share():
    # 3 x 3/4 = 2.25 and 3 x 1/4 = .75: two and none, and the third to the larger share, not to the larger fraction.
    assert kept([0.25, 0.25, 0.125, 0.125, 0.125, 0.125, 0.0, 0.0], 3, 2) == [0, 1, 2]


def test_a_quota_larger_than_its_crop_is_filled_by_the_next_best():
    # 6 x 7/8 = 5.25 and .75: five and none, the sixth to the first crop too, which has four tokens.
    assert kept([0.375, 0.25, 0.125, 0.125, 0.0, 0.0625, 0.0625, 0.0], 6, 2) == [0, 1, 2, 3, 5, 6]


def test_equal_attention_gives_equal_shares():
    assert kept([0.1] * 12, 4, 4) == [0, 3, 6, 9]
    assert kept([0.1] * 12, 8, 4) == [0, 1, 3, 4, 6, 7, 9, 10]


def test_the_first_crops_are_longer_and_there_are_no_more_than_tokens():
    assert make("holov", {"crops": 3}).lengths(Case(7, 1, 3)) == [3, 2, 2]
    assert make("holov").lengths(Case(7, 1, 3)) == [1] * 7
    # Means of 1/8, 1/4 and 1/4 give .6, 1.2 and 1.2 of three.
    assert kept([0.0, 0.0, 0.375, 0.25, 0.25, 0.25, 0.25], 3, 3) == [3, 4, 5]


def test_without_any_attention_each_crop_has_one():
    assert kept([0.0] * 6, 4, 3) == [0, 1, 2, 4]


def test_wrong_requests():
    with pytest.raises(RequestError, match=r"keep 0 is outside 1\.\.5"):
        make("holov").check(Case(5, 1, 0))
    with pytest.raises(RequestError, match=r"crops 0 is below 1.*crops=16"):
        make("holov", {"crops": 0})


def test_body_size():
    (function,) = body_model(make("holov"), Case(576, 64, 128), exact_ties=True).functions.values()
    assert len(function) < 150
