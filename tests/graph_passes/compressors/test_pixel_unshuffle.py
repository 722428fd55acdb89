import numpy as np
import pytest
import torch
from body_runner import body_session, every_way
from hypothesis import given, settings
from hypothesis import strategies as st
from tokexport.errors import RequestError
from tokexport.graph_passes.agreement import compare
from tokexport.graph_passes.compressors import Case, make

# A 4 x 6 grid, token = 10 row + column: what stands where can be read off.
GRID = (4, 6)
NAMED = np.array([[[10 * y + x, 100 + 10 * y + x] for y in range(4) for x in range(6)]], np.float32)


def internvl(x, r, version):
    """[B, h, w, C] as `InternVLChatModel.pixel_shuffle` treats it, in numpy: view, permute, view, permute."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w // r, c * r).transpose(0, 2, 1, 3).reshape(b, w // r, h // r, c * r * r)
    x = x if version == "v1" else x.transpose(0, 2, 1, 3)
    return x.reshape(b, -1, c * r * r)


def test_blocks_row_by_row_each_token_whole():
    for way, got in every_way(make("pixel_unshuffle"), Case(24, 2, 6, grid=GRID), NAMED).items():
        assert got.tokens.shape == (1, 6, 8)
        assert got.tokens[0, 0].tolist() == [0, 100, 1, 101, 10, 110, 11, 111], way
        assert got.tokens[0, 4].tolist() == [22, 122, 23, 123, 32, 132, 33, 133], way
        assert got.tokens[0, :, 0].tolist() == [0, 2, 4, 20, 22, 24], way
        assert got.kept_indices.tolist() == [[0, 2, 4, 12, 14, 16]], way
        assert got.sizes.tolist() == [[1.0] * 6], way
        assert got.assignment.reshape(4, 6).tolist() == [[0, 0, 1, 1, 2, 2]] * 2 + [[3, 3, 4, 4, 5, 5]] * 2, way


def test_version_1_column_by_column():
    compressor = make("pixel_unshuffle", {"version": "v1"})
    for way, got in every_way(compressor, Case(24, 2, 6, grid=GRID), NAMED).items():
        assert got.tokens[0, 1].tolist() == [20, 120, 21, 121, 30, 130, 31, 131], way
        assert got.tokens[0, :, 0].tolist() == [0, 20, 2, 22, 4, 24], way
        assert got.kept_indices.tolist() == [[0, 12, 2, 14, 4, 16]], way
        assert got.assignment.reshape(4, 6).tolist() == [[0, 0, 2, 2, 4, 4]] * 2 + [[1, 1, 3, 3, 5, 5]] * 2, way


def test_it_is_not_the_order_of_torch():
    torchs = torch.nn.PixelUnshuffle(2)(torch.from_numpy(NAMED).transpose(1, 2).unflatten(2, GRID)).flatten(2)
    ours = every_way(make("pixel_unshuffle"), Case(24, 2, 6, grid=GRID), NAMED)["body"]
    assert not np.array_equal(ours.tokens, torchs.transpose(1, 2).numpy())
    assert np.array_equal(np.sort(ours.tokens), np.sort(torchs.transpose(1, 2).numpy()))


@given(
    r=st.sampled_from([2, 3]),
    down=st.integers(1, 4),
    across=st.integers(1, 4),
    version=st.sampled_from(["v1", "v2"]),
    dtype=st.sampled_from(["float32", "float16"]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=30, deadline=None)
def test_body_reference_and_internvl_agree_bit_for_bit(r, down, across, version, dtype, seed):
    h, w, compressor = r * down, r * across, make("pixel_unshuffle", {"r": r, "version": version})
    case = Case(h * w, 3, down * across, dtype, (h, w))
    tokens = np.random.default_rng(seed).standard_normal((2, h * w, 3)).astype(dtype)
    got = body_session(compressor, case)(tokens)
    assert np.array_equal(got.tokens, internvl(tokens.reshape(2, h, w, 3), r, version))
    agreement = compare(compressor, case, tokens, got)
    assert agreement.ok, agreement
    for slot, corner in enumerate(got.kept_indices[0]):
        assert np.array_equal(got.tokens[0, slot, :3], tokens[0, corner])
        assert (got.assignment[0] == slot).sum() == r * r and got.assignment[0, corner] == slot


def test_the_body_is_a_transpose_between_reshapes():
    body = body_session(make("pixel_unshuffle"), Case(24, 2, 6, grid=GRID)).model
    (function,) = body.functions.values()
    operators = {node.op_type for node in function if node.op_type not in ("Constant", "Identity")}
    assert operators == {"Reshape", "Transpose", "Shape", "Concat", "Expand"}


def test_only_one_count_and_it_is_named():
    with pytest.raises(RequestError, match=r"keeps 36 of 144 tokens, not 21.*--keep 36.*--ratio 3/4"):
        make("pixel_unshuffle").check(Case(144, 8, 21, grid=(12, 12)))
    with pytest.raises(RequestError, match=r"r=3 keeps 16 of 144.*--ratio 8/9"):
        make("pixel_unshuffle", {"r": 3}).check(Case(144, 8, 36, grid=(12, 12)))


@pytest.mark.parametrize(
    ("grid", "params", "message"),
    [
        ((27, 27), {}, r"grid of 27x27 cannot be divided into blocks of 2x2.*divide it: 3, 9, 27"),
        ((4, 5), {}, r"grid of 4x5.*divide it: none"),
        ((24,), {}, r"are a line of 24.*For sound"),
        ((2, 4, 4), {}, r"needs an image or audio, and the grid is 2x4x4"),
        (None, {}, r"needs the grid of the tokens.*--set grid="),
        (None, {"grid": "5x5"}, r"grid 5x5 has 25 positions.*36 tokens"),
        (None, {"grid": "6by6"}, r"grid '6by6' is not written in numbers"),
        ((4, 6), {"r": 1}, r"r = 1 forms no blocks"),
    ],
)
def test_refusals(grid, params, message):
    tokens = int(np.prod(grid)) if grid else 36
    with pytest.raises(RequestError, match=message):
        make("pixel_unshuffle", params).check(Case(tokens, 8, tokens // 4, grid=grid))


def test_a_given_grid_wins_over_the_models_guess():
    compressor = make("pixel_unshuffle", {"grid": "4x9"})
    assert make("pixel_unshuffle").check(Case(36, 1, 9, grid=(6, 6))) is None
    with pytest.raises(RequestError, match="grid of 4x9"):
        compressor.check(Case(36, 1, 9, grid=(6, 6)))
