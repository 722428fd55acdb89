import itertools

import numpy as np
import pytest
from body_runner import every_way
from learned_weights import asked_shapes
from tokexport.errors import RequestError
from tokexport.graph_passes.compressors import Case, make

# So large that x sigmoid(x) and GELU leave them and their sums as they are.
TOKENS = (100 + np.arange(16, dtype=np.float32)).reshape(1, 16, 1)
GRID = (2, 2, 4)


def run(tmp_path, params, keep, given):
    """By default all arrays are 0 but the sampler and the readout, which are ones."""
    case = Case(16, 1, keep, grid=GRID)
    ones = ("sampler.0.weight", "readout.0.weight", "readout.2.weight")
    arrays = {name: np.full(shape, name in ones) for name, shape in asked_shapes("stc", params, case).items()}
    np.savez(tmp_path / "w.npz", **{**arrays, **given})
    return every_way(make("stc", {**params, "weights": str(tmp_path / "w.npz")}), case, TOKENS).items()


def test_without_padding_a_slot_is_made_of_eight_tokens(tmp_path):
    video = TOKENS.reshape(GRID)
    for way, got in run(tmp_path, {"depth": 0, "padding": 0}, 2, {}):
        np.testing.assert_allclose(got.tokens[0, :, 0], [video[..., :2].sum(), video[..., 2:].sum()], err_msg=way)
        assert got.kept_indices.tolist() == [[0, 2]] and got.sizes.tolist() == [[1, 1]], way
        assert got.assignment.tolist() == [[0, 0, 1, 1] * 4], way


def test_with_padding_windows_begin_one_place_earlier(tmp_path):
    video = TOKENS.reshape(GRID)
    windows = [[slice(0, 1), slice(1, 2)], [slice(0, 1), slice(1, 2)], [slice(0, 1), slice(1, 3), slice(3, 4)]]
    sums = [video[part].sum() for part in itertools.product(*windows)]
    for way, got in run(tmp_path, {"depth": 0, "padding": 1}, 12, {}):
        np.testing.assert_allclose(got.tokens[0, :, 0], sums, err_msg=way)
        assert got.kept_indices.tolist() == [[0, 1, 3, 4, 5, 7, 8, 9, 11, 12, 13, 15]], way
        assert got.assignment[0, :8].tolist() == [0, 1, 1, 2, 3, 4, 4, 5], way


def test_what_is_left_of_an_odd_side_is_lost(tmp_path):
    case = Case(15, 2, 2, grid=(3, 1, 5))
    with pytest.raises(RequestError, match="without padding a side of 1 becomes 0"):
        make("stc", {"padding": 0}).check(case)
    case = Case(30, 1, 2, grid=(3, 2, 5))
    params = {"depth": 0, "padding": 0}
    shapes = asked_shapes("stc", params, case)
    np.savez(tmp_path / "w.npz", **{name: np.zeros(shape) for name, shape in shapes.items()})
    compressor = make("stc", {**params, "weights": str(tmp_path / "w.npz")})
    for way, got in every_way(compressor, case, np.zeros((1, 30, 1), np.float32)).items():
        frame = [0, 0, 1, 1, -1] * 2
        assert got.assignment.tolist() == [frame + frame + [-1] * 10], way


def test_a_block_is_added_to_what_it_reads(tmp_path):
    # Norms of weight 0 give their bias, so the block of stage 1 adds 1,000 and that of stage 2 nothing.
    video = TOKENS.reshape(GRID) + 1000
    for way, got in run(tmp_path, {"depth": 1, "padding": 0}, 2, {"s1.b1.conv3.bn.bias": np.full(1, 1000)}):
        np.testing.assert_allclose(got.tokens[0, :, 0], [video[..., :2].sum(), video[..., 2:].sum()], err_msg=way)


def test_the_first_block_changes_the_channels():
    shapes = asked_shapes("stc", {"channels": 6, "depth": 2}, Case(16, 8, 12, grid=GRID))
    assert shapes["s1.b1.downsample.conv.weight"] == (6, 8, 1, 1) and "s1.b2.downsample.conv.weight" not in shapes
    # A quarter of what a block reads, a half to the even number.
    assert shapes["s1.b1.se.fc1.weight"] == (2, 6, 1, 1) and shapes["s2.b2.se.fc2.weight"] == (6, 2, 1, 1)


@pytest.mark.parametrize(
    ("params", "case", "message"),
    [
        ({}, Case(4608, 8, 576, grid=(8, 24, 24)), r"padding=1 cannot keep 576 .*--keep 845 \(5x13x13\)"),
        ({"padding": 0}, Case(4608, 8, 845, grid=(8, 24, 24)), r"--keep 576 \(4x12x12\)"),
        ({}, Case(16, 8, 4, grid=(4, 4)), "needs a video, and the grid is 4x4"),
        ({"depth": 0, "channels": 9}, Case(16, 8, 12, grid=GRID), "depth=0 and channels=9 for tokens of 8"),
        ({"depth": -1}, Case(16, 8, 12, grid=GRID), "Neither may be negative"),
    ],
)
def test_refusals(params, case, message):
    with pytest.raises(RequestError, match=message):
        make("stc", params).check(case)


def test_a_padding_that_nobody_trained_is_refused():
    with pytest.raises(RequestError, match="padding 2 is neither 0 nor 1"):
        make("stc", {"padding": 2})
