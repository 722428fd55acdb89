import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokexport.graph_passes.compressors.blocks.shares import highest_of_each, share, share_one_each


def test_shares_are_spread_evenly():
    assert share(5, [2, 2, 2]) == [1, 2, 2]
    assert share(3, [1, 8]) == [0, 3]
    assert share(10, [4, 6]) == [4, 6]
    assert share_one_each(3, [1, 8]) == [1, 2]
    assert share_one_each(2, [1, 1]) == [1, 1]


@given(room=st.lists(st.integers(1, 40), min_size=1, max_size=12), part=st.floats(0, 1))
def test_nobody_gets_more_than_there_is_room_for(room, part):
    k = round(part * sum(room))
    counts = share(k, room)
    assert sum(counts) == k
    assert all(0 <= count <= size for count, size in zip(counts, room))
    assert np.abs(np.array(counts) - k * np.array(room) / sum(room)).max() < 1
    k = max(k, len(room))
    counts = share_one_each(k, room)
    assert sum(counts) == k
    assert all(1 <= count <= size for count, size in zip(counts, room))


def test_the_highest_of_each_part():
    scores = torch.tensor([[[1.0, 3, 3, 2], [5, 5, 5, 5]]])
    assert highest_of_each(scores, [2, 1]).tolist() == [[[False, True, True, False], [True, False, False, False]]]
    assert highest_of_each(scores, [0, 4]).sum(2).tolist() == [[0, 4]]
    with pytest.raises(RuntimeError):
        highest_of_each(scores, [1, 1, 1])
