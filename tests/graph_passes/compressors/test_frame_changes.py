"""evs and codec_topk on videos, audio_topk on sound."""

import numpy as np
import pytest
from body_runner import every_way
from tokexport.errors import RequestError
from tokexport.graph_passes.compressors import Case, make

# Three frames of two places. Place 0 turns by 90 degrees, then grows; place 1 stands still, then turns a little.
VIDEO = np.array([[1, 0], [0, 2], [0, 1], [0, 2], [0, 9], [1, 2]], np.float32)[None]
GRID = (3, 1, 2)


def kept(method, params, keep, tokens=VIDEO, grid=GRID, **signals):
    case = Case(tokens.shape[1], tokens.shape[2], keep, grid=grid)
    found = [got.kept_indices.tolist() for got in every_way(make(method, params), case, tokens, **signals).values()]
    assert all(one == found[0] for one in found), found
    return found[0][0]


def test_evs_ranks_by_turns_and_keeps_the_first_frame():
    assert kept("evs", {}, 2) == [0, 1]
    assert kept("evs", {}, 3) == [0, 1, 2]
    assert kept("evs", {}, 4) == [0, 1, 2, 5]
    # What only grew did not turn: equal to what stood still, and the lower index goes first.
    assert kept("evs", {}, 5) == [0, 1, 2, 3, 5]


def test_codec_topk_ranks_by_the_energy_of_changes():
    assert kept("codec_topk", {}, 3) == [0, 1, 4]
    assert kept("codec_topk", {}, 4) == [0, 1, 2, 4]
    # Energies: 1 4 / 2 0 / 64 1.
    assert kept("codec_topk", {"first": "ranked"}, 1) == [4]
    assert kept("codec_topk", {"first": "ranked"}, 3) == [1, 2, 4]
    assert kept("codec_topk", {"first": "ranked"}, 4) == [0, 1, 2, 4]


@pytest.mark.parametrize("method", ["evs", "codec_topk"])
def test_equal_frames_leave_the_lowest_indices(method):
    assert kept(method, {}, 4, np.ones((1, 6, 3), np.float32)) == [0, 1, 2, 3]


def test_audio_topk_ranks_by_received_attention():
    attention = np.array([[0.1, 0.3, 0.2, 0.3, 0.0, 0.1]], np.float32)
    assert kept("audio_topk", {}, 3, received_attention=attention) == [1, 2, 3]
    assert kept("audio_topk", {"attention": "cls"}, 4, cls_attention=attention) == [0, 1, 2, 3]


@pytest.mark.parametrize("method", ["evs", "codec_topk"])
def test_refusals(method):
    with pytest.raises(RequestError, match=r"keep 1 is less than the first frame.*has 2 tokens.*--keep 2 to 6"):
        make(method).check(Case(6, 2, 1, grid=GRID))
    with pytest.raises(RequestError, match=r"keep 7 is outside 1\.\.6"):
        make(method).check(Case(6, 2, 7, grid=GRID))
    with pytest.raises(RequestError, match="needs a video"):
        make(method).check(Case(6, 2, 3, grid=(2, 3)))
