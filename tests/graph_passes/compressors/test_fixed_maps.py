"""Methods whose slots do not depend on what tokens hold."""

import numpy as np
import pytest
from body_runner import every_way
from tokexport.errors import RequestError
from tokexport.graph_passes.compressors import Case, make

LINE = np.arange(7, dtype=np.float32).reshape(1, 7, 1)
# Three frames of 1 x 4 places: 0 1 2 3 / 10 11 12 13 / 20 21 22 23.
VIDEO = (np.arange(3)[:, None] * 10 + np.arange(4)).astype(np.float32).reshape(1, 12, 1)


def check(method, params, case, tokens, *, tokens_out, kept, sizes, assignment):
    for way, got in every_way(make(method, params), case, tokens).items():
        np.testing.assert_allclose(got.tokens[0].squeeze(-1), tokens_out, rtol=1e-6, err_msg=way)
        assert got.kept_indices[0].tolist() == kept, way
        assert got.sizes[0].tolist() == sizes, way
        assert got.assignment[0].tolist() == assignment, way


def test_temporal_pool_averages_frames_and_loses_the_odd_one():
    check(
        "temporal_pool",
        {},
        Case(12, 1, 4, grid=(3, 1, 4)),
        VIDEO,
        tokens_out=[10, 11, 12, 13],
        kept=[4, 5, 6, 7],
        sizes=[3] * 4,
        assignment=[0, 1, 2, 3] * 3,
    )
    check(
        "temporal_pool",
        {},
        Case(20, 1, 8, grid=(5, 1, 4)),
        np.arange(20, dtype=np.float32).reshape(1, 20, 1),
        tokens_out=[2, 3, 4, 5, 10, 11, 12, 13],
        kept=[0, 1, 2, 3, 8, 9, 10, 11],
        sizes=[2] * 8,
        assignment=[0, 1, 2, 3] * 2 + [4, 5, 6, 7] * 2 + [-1] * 4,
    )


def test_pool3d_pools_boxes_that_may_overlap():
    # Time 3 -> 2: frames 0-1 and 1-2. Width 4 -> 2.
    check(
        "pool3d",
        {"shape": "2x1x2"},
        Case(12, 1, 4, grid=(3, 1, 4)),
        VIDEO,
        tokens_out=[5.5, 7.5, 15.5, 17.5],
        kept=[0, 2, 4, 6],
        sizes=[4, 4, 2, 2],
        assignment=[0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 3, 3],
    )


def test_pool3d_keeps_every_frame_where_no_shape_is_given():
    tokens = np.arange(32, dtype=np.float32).reshape(1, 32, 1)
    check(
        "pool3d",
        {},
        Case(32, 1, 8, grid=(2, 4, 4)),
        tokens,
        tokens_out=[2.5, 4.5, 10.5, 12.5, 18.5, 20.5, 26.5, 28.5],
        kept=[0, 2, 8, 10, 16, 18, 24, 26],
        sizes=[4] * 8,
        assignment=[f * 4 + y // 2 * 2 + x // 2 for f in range(2) for y in range(4) for x in range(4)],
    )


def test_st_mean_returns_frames_and_positions():
    check(
        "st_mean",
        {},
        Case(12, 1, 7, grid=(3, 1, 4)),
        VIDEO,
        tokens_out=[1.5, 11.5, 21.5, 10, 11, 12, 13],
        kept=[0, 4, 8, 0, 1, 2, 3],
        sizes=[1, 1, 1, 3, 3, 3, 3],
        assignment=[3, 4, 5, 6] * 3,
    )


@pytest.mark.parametrize(("mode", "slow"), [("max", [1, 3]), ("average", [0.5, 2.5])])
def test_slowfast_returns_a_slow_and_a_fast_path(mode, slow):
    check(
        "slowfast",
        {"slow": 1, "fast": 1, "mode": mode},
        Case(12, 1, 5, grid=(3, 1, 4)),
        VIDEO,
        tokens_out=[*slow, 1.5, 11.5, 21.5],
        kept=[0, 2, 1, 5, 9],
        sizes=[2, 2, 1, 4, 4],
        assignment=[0, 0, 1, 1, 3, 3, 3, 3, 4, 4, 4, 4],
    )


def test_slowfast_leaves_the_odd_place_of_a_slow_frame_to_the_fast_path():
    check(
        "slowfast",
        {"slow": 2, "fast": 1},
        Case(6, 1, 4, grid=(2, 1, 3)),
        np.array([0, 1, 2, 10, 11, 12], np.float32).reshape(1, 6, 1),
        tokens_out=[1, 11, 1, 11],
        kept=[0, 3, 1, 4],
        sizes=[2, 2, 1, 1],
        assignment=[0, 0, 2, 1, 1, 3],
    )


def test_stack_puts_frames_side_by_side():
    for way, got in every_way(make("stack", {"k": 3}), Case(7, 1, 2), LINE).items():
        assert got.tokens.tolist() == [[[0, 1, 2], [3, 4, 5]]], way
        assert got.kept_indices.tolist() == [[0, 3]] and got.sizes.tolist() == [[1, 1]], way
        assert got.assignment.tolist() == [[0, 0, 0, 1, 1, 1, -1]], way


def test_pool1d_is_a_mean_over_time_whatever_grid_the_model_names():
    check(
        "pool1d",
        {},
        Case(6, 1, 3, grid=(2, 3)),
        LINE[:, :6],
        tokens_out=[0.5, 2.5, 4.5],
        kept=[0, 2, 4],
        sizes=[2, 2, 2],
        assignment=[0, 0, 1, 1, 2, 2],
    )


def test_conv1d_starts_as_a_mean_and_reads_its_weights_from_a_file(tmp_path):
    params = {"kernel": 3, "stride": 2}
    common = {"kept": [1, 3, 5], "sizes": [1, 1, 1], "assignment": [0, 0, 1, 1, 2, 2, 2]}
    check("conv1d", params, Case(7, 1, 3), LINE, tokens_out=[1, 3, 5], **common)
    file = tmp_path / "w.npz"
    np.savez(file, weight=np.array([[[1, 0, -2]]], np.float32), bias=np.array([100], np.float32))
    check("conv1d", {**params, "weights": str(file)}, Case(7, 1, 3), LINE, tokens_out=[96, 94, 92], **common)
    np.savez(file, weight=np.ones((2, 1, 3), np.float32), bias=np.zeros(2, np.float32))
    wide = make("conv1d", {**params, "channels": 2, "weights": str(file)})
    for way, got in every_way(wide, Case(7, 1, 3), LINE).items():
        np.testing.assert_allclose(got.tokens, [[[3, 3], [9, 9], [15, 15]]], rtol=1e-6, err_msg=way)


@pytest.mark.parametrize(
    ("method", "params", "case", "message"),
    [
        (
            "temporal_pool",
            {},
            Case(12, 1, 5, grid=(3, 1, 4)),
            r"cannot keep 5 of 3x1x4.*--keep 4 \(stride 3\) or --keep 12",
        ),
        ("temporal_pool", {}, Case(12, 1, 4, grid=(3, 4)), r"needs a video, and the grid is 3x4"),
        ("temporal_pool", {}, Case(12, 1, 4), r"needs the grid of the tokens.*FRAMESxHEIGHTxWIDTH"),
        ("pool3d", {}, Case(32, 1, 9, grid=(2, 4, 4)), r"cannot keep 9 of 2x4x4.*--keep 8 \(2x2 per frame\)"),
        ("pool3d", {"shape": "2x2"}, Case(32, 1, 4, grid=(2, 4, 4)), "is not FRAMESxHEIGHTxWIDTH"),
        ("pool3d", {"shape": "3x2x2"}, Case(32, 1, 12, grid=(2, 4, 4)), "does not fit a video of 2x4x4"),
        ("pool3d", {"shape": "1x2x2"}, Case(32, 1, 8, grid=(2, 4, 4)), "keeps 4 tokens, not 8"),
        ("st_mean", {}, Case(12, 1, 6, grid=(3, 1, 4)), r"cannot keep 6.*--keep 7 \(3 frames and 4 positions\)"),
        ("slowfast", {"slow": 4}, Case(12, 1, 6, grid=(3, 1, 4)), r"slow=4 frames.*--set slow=1 to 3"),
        ("slowfast", {"slow": 1, "fast": 2}, Case(12, 1, 6, grid=(3, 1, 4)), "fast=2 is not a valid grid side"),
        ("slowfast", {"slow": 1, "fast": 1}, Case(12, 1, 6, grid=(3, 1, 4)), r"--keep 5 \(2 slow and 3 fast\)"),
        ("stack", {"k": 3}, Case(7, 1, 3), r"cannot keep 3 of 7 tokens.*--keep 2"),
        ("stack", {"k": 1}, Case(7, 1, 7), "k = 1"),
        ("pool1d", {}, Case(7, 1, 4), r"cannot keep 4.*--keep 3 \(stride 2\) or --keep 7 \(stride 1\)"),
        ("conv1d", {}, Case(8, 1, 3), r"cannot keep 3.*--keep 2 \(stride 4\)"),
        ("conv1d", {"stride": 5}, Case(8, 1, 1), "do not fit 8 frames"),
        ("conv1d", {"channels": 2}, Case(8, 1, 2), "without weights for them"),
    ],
)
def test_refusals(method, params, case, message):
    with pytest.raises(RequestError, match=message):
        make(method, params).check(case)
