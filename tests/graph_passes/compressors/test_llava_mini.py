import numpy as np
import pytest
import torch
from body_runner import every_way
from tokexport.errors import RequestError
from tokexport.graph_passes.compressors import Case, make
from tokexport.graph_passes.compressors.llava_mini import cubic_weights, places_of

# Where P varies most over a small grid, channels 0, 2, 4 and 6 of 8, tokens are 0. A layer norm leaves them alone.
SIGNS = np.array([[1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1], [-1, 1, 1, -1]])
TOKENS = np.zeros((1, 4, 8), np.float32)
TOKENS[0, :, 1::2] = SIGNS * 2**0.5


def run(tmp_path, case, sharpness):
    """Queries and keys are `sharpness` times the four channels, values are tokens; the query itself is nothing."""
    place = np.diag(np.tile([sharpness, 0], 4))
    arrays = {"query": np.zeros((case.keep, 8)), "attn.in_proj_weight": np.concatenate([place, place, np.eye(8)])}
    arrays |= {"attn.in_proj_bias": np.zeros(24), "attn.out_proj.weight": np.eye(8), "attn.out_proj.bias": np.zeros(8)}
    for norm in ("ln_q", "ln_kv"):
        arrays |= {f"{norm}.weight": np.ones(8), f"{norm}.bias": np.zeros(8)}
    np.savez(tmp_path / "w.npz", **arrays)
    return every_way(make("llava_mini", {"heads": 1, "weights": str(tmp_path / "w.npz")}), case, TOKENS).items()


def test_each_query_reads_the_token_at_its_place(tmp_path):
    for way, got in run(tmp_path, Case(4, 8, 4, grid=(2, 2)), 10):
        np.testing.assert_allclose(got.tokens, TOKENS, atol=1e-3, err_msg=way)
        assert got.kept_indices.tolist() == [[0, 1, 2, 3]] and got.assignment.tolist() == [[-1] * 4], way


def test_one_query_sees_one_place_everywhere(tmp_path):
    for way, got in run(tmp_path, Case(4, 8, 1, grid=(2, 2)), 10):
        np.testing.assert_allclose(got.tokens[0, 0], TOKENS[0].mean(0), atol=1e-3, err_msg=way)


def test_columns_come_before_rows():
    one, hundredth = [np.sin(1), np.sin(0.01), np.cos(1), np.cos(0.01)], [0, 0, 1, 1]
    np.testing.assert_allclose(places_of(2, 8), [hundredth * 2, one + hundredth, hundredth + one, one * 2])


@pytest.mark.parametrize(("side", "into"), [(1, 4), (2, 7), (3, 3), (4, 2)])
def test_cubic_weights_are_those_of_pytorch(side, into):
    line = torch.eye(side, dtype=torch.float64)[None, :, None]
    enlarged = torch.nn.functional.interpolate(line, (1, into), mode="bicubic", align_corners=False)
    np.testing.assert_allclose(cubic_weights(side, into), enlarged[0, :, 0].T, atol=1e-12)


@pytest.mark.parametrize(
    ("params", "case", "message"),
    [
        ({}, Case(36, 16, 5, grid=(6, 6)), r"cannot keep 5 .*--keep 4 \(2x2\) or --keep 9 \(3x3\)"),
        ({}, Case(36, 12, 4, grid=(6, 6)), r"12 channels in 8 heads"),
        ({"heads": 3}, Case(36, 18, 4, grid=(6, 6)), "a multiple of 4"),
        ({}, Case(36, 16, 4, grid=(36,)), "rows and columns"),
        ({}, Case(36, 16, 4), "needs the grid of the tokens"),
    ],
)
def test_refusals(params, case, message):
    with pytest.raises(RequestError, match=message):
        make("llava_mini", params).check(case)
