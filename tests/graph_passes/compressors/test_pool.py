import numpy as np
import pytest
import torch
from body_runner import body_session, every_way
from hypothesis import given, settings
from hypothesis import strategies as st
from tokexport.errors import RequestError
from tokexport.graph_passes.agreement import compare
from tokexport.graph_passes.compressors import Case, make
from torch.nn import functional as F

MODES = ["average", "max", "bilinear"]


def grid_of_numbers(h, w):
    """Tokens [1, h w, 2]: the token's own number, and its negative."""
    number = np.arange(h * w, dtype=np.float32)
    return np.stack([number, -number], 1)[None]


@pytest.mark.parametrize(
    ("mode", "first", "second"),
    [("average", [3.5, 5.5], [-3.5, -5.5]), ("max", [7, 9], [0, -2]), ("bilinear", [3.5, 5.5], [-3.5, -5.5])],
)
def test_stride_2(mode, first, second):
    """4 rows of 6: the upper left blocks are 0, 1, 6, 7 and 2, 3, 8, 9."""
    for way, got in every_way(make("pool", {"mode": mode}), Case(24, 2, 6, grid=(4, 6)), grid_of_numbers(4, 6)).items():
        assert got.tokens[0, :2, 0].tolist() == first, way
        assert got.tokens[0, :2, 1].tolist() == second, way
        assert got.kept_indices.tolist() == [[0, 2, 4, 12, 14, 16]], way
        assert got.sizes.tolist() == [[4.0] * 6], way
        assert got.assignment.reshape(4, 6).tolist() == [[0, 0, 1, 1, 2, 2]] * 2 + [[3, 3, 4, 4, 5, 5]] * 2, way


def test_stride_3_sits_on_the_middle_and_what_is_left_over_is_lost():
    for way, got in every_way(make("pool"), Case(35, 2, 2, grid=(5, 7)), grid_of_numbers(5, 7)).items():
        assert got.tokens[0, :, 0].tolist() == [8, 11], way
        assert got.kept_indices.tolist() == [[8, 11]], way
        assert got.sizes.tolist() == [[9, 9]], way
        assert got.assignment.reshape(5, 7).tolist() == [[0, 0, 0, 1, 1, 1, -1]] * 3 + [[-1] * 7] * 2, way


def test_bilinear_at_stride_3_reads_one_token_of_nine():
    got = every_way(make("pool", {"mode": "bilinear"}), Case(36, 2, 4, grid=(6, 6)), grid_of_numbers(6, 6))
    for way, result in got.items():
        assert result.tokens[0, :, 0].tolist() == [7, 10, 25, 28], way
        assert result.kept_indices.tolist() == [[7, 10, 25, 28]], way
        assert result.sizes.tolist() == [[1] * 4], way
        assert (result.assignment >= 0).sum() == 4, way


def test_bilinear_rounds_an_odd_side_up():
    """Three to two: points at 1/4 and 7/4, so the middle token is shared and the first slot has it."""
    for way, got in every_way(
        make("pool", {"mode": "bilinear"}), Case(3, 1, 2, grid=(3,)), np.float32([[[0], [4], [8]]])
    ).items():
        assert got.tokens[0, :, 0].tolist() == [1, 7], way
        assert got.kept_indices.tolist() == [[0, 2]], way
        assert got.assignment.tolist() == [[0, 0, 1]], way
        assert got.sizes.tolist() == [[2, 1]], way


@pytest.mark.parametrize(("mode", "keep"), [("bilinear", 196), ("average", 169), ("max", 169)])
def test_siglip_at_stride_2_as_in_llava_onevision(mode, keep):
    make("pool", {"mode": mode}).check(Case(729, 8, keep, grid=(27, 27)))


def test_sound_is_pooled_along_time():
    tokens = np.float32([[[1], [3], [10], [20], [7]]])
    for mode, wanted in (("average", [2, 15]), ("max", [3, 20])):
        for way, got in every_way(make("pool", {"mode": mode}), Case(5, 1, 2, grid=(5,)), tokens).items():
            assert got.tokens[0, :, 0].tolist() == wanted, way
            assert got.kept_indices.tolist() == [[0, 2]], way
            assert got.assignment.tolist() == [[0, 0, 1, 1, -1]], way


def torchs(tokens, grid, mode, stride):
    """PyTorch's own pooling of [B, N, D]."""
    x = torch.from_numpy(tokens).float().transpose(1, 2).unflatten(2, grid)
    line = len(grid) == 1
    if mode == "bilinear":
        size = [-(-side // stride) for side in grid]
        x = F.interpolate(x, size, mode="linear" if line else "bilinear", align_corners=False, antialias=False)
    elif mode == "average":
        x = (F.avg_pool1d if line else F.avg_pool2d)(x, stride)
    else:
        x = (F.max_pool1d if line else F.max_pool2d)(x, stride)
    return x.flatten(2).transpose(1, 2).numpy()


@pytest.mark.parametrize("mode", MODES)
@given(
    grid=st.one_of(st.tuples(st.integers(1, 40)), st.tuples(st.integers(1, 9), st.integers(1, 12))),
    stride=st.integers(1, 6),
    batch=st.sampled_from([1, 2]),
    dtype=st.sampled_from(["float32", "float16"]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=40, deadline=None)
def test_body_agrees_with_reference_and_torch(mode, grid, stride, batch, dtype, seed):
    compressor = make("pool", {"mode": mode})
    shape = compressor.shape(grid, stride)
    n, k = int(np.prod(grid)), int(np.prod(shape))
    if not k:
        return
    case = Case(n, 3, k, dtype, grid)
    tokens = np.random.default_rng(seed).standard_normal((batch, n, 3)).astype(dtype)
    got = body_session(compressor, case)(tokens)
    agreement = compare(compressor, case, tokens, got)
    assert agreement.ok and agreement.flipped == agreement.moved == 0, agreement
    taken = compressor.strides(grid)[k]
    assert np.allclose(
        got.tokens, torchs(tokens, grid, mode, taken), rtol=1e-3 if dtype == "float16" else 1e-5, atol=1e-5
    )
    if k == n:
        assert np.array_equal(got.tokens, tokens)
    read = (got.assignment >= 0).sum(1)
    assert np.array_equal(got.sizes.sum(1), read)
    if mode != "bilinear":
        assert set(got.sizes.ravel()) == {taken ** len(grid)}


@pytest.mark.parametrize("mode", MODES)
def test_equal_tokens_stay_what_they_are(mode):
    tokens = np.full((1, 81, 4), 2.5, np.float32)
    for way, got in every_way(
        make("pool", {"mode": mode}), Case(81, 4, 16 if mode != "bilinear" else 25, grid=(9, 9)), tokens
    ).items():
        assert np.allclose(got.tokens, 2.5, rtol=1e-6), way


def test_the_counts_of_a_grid():
    assert make("pool").strides((12, 12)) == {144: 1, 36: 2, 16: 3, 9: 4, 4: 6, 1: 12}
    assert make("pool", {"mode": "bilinear"}).strides((12, 12)) == {144: 1, 36: 2, 16: 3, 9: 4, 4: 6, 1: 12}
    assert make("pool").strides((3, 8)) == {24: 1, 4: 2, 2: 3}
    assert make("pool", {"mode": "bilinear"}).strides((3, 8)) == {24: 1, 8: 2, 3: 3, 2: 4, 1: 8}


def test_a_count_that_is_not_reached_names_those_that_are():
    with pytest.raises(
        RequestError,
        match=r"cannot keep 21 of 12x12 tokens.*--keep 16 \(stride 3\) or --keep 36.*All: 144, 36, 16, 9, 4, 1",
    ):
        make("pool").check(Case(144, 8, 21, grid=(12, 12)))
    with pytest.raises(RequestError, match=r"mode=bilinear cannot keep 169"):
        make("pool", {"mode": "bilinear"}).check(Case(729, 8, 169, grid=(27, 27)))


def test_of_strides_with_one_count_the_largest_loses_fewest():
    got = every_way(make("pool"), Case(144, 2, 4, grid=(12, 12)), grid_of_numbers(12, 12))["body"]
    assert got.sizes.tolist() == [[36] * 4]
    assert (got.assignment >= 0).all()


def test_no_grid():
    case = Case(36, 8, 9)
    with pytest.raises(
        RequestError, match=r"needs the grid of the tokens.*--set grid=HEIGHTxWIDTH, for example --set grid=6x6"
    ):
        make("pool").check(case)
    make("pool", {"grid": "6x6"}).check(case)
    make("pool", {"grid": "36"}).check(Case(36, 8, 18))
