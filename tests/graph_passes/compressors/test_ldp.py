"""Channels in pairs: a layer norm makes (1, -1) of a pair whose first is larger, (-1, 1) of the other, 0 of equals."""

import numpy as np
import pytest
from body_runner import every_way
from tokexport.errors import RequestError
from tokexport.graph_passes.compressors import Case, make
from tokexport.graph_passes.compressors.ldp import squeezed_channels

CASE = Case(16, 2, 4, grid=(4, 4))
LARGER = np.array([[1, 1, 0, 0], [1, 0, 0, 1], [0, 1, 1, 0], [1, 0, 1, 1]])  # 1: the first channel is


def tokens():
    pairs = np.where(LARGER.reshape(1, 16, 1) == 1, [100, 0], [0, 100])
    return pairs.astype(np.float32)


def arrays(*, first_bias=(0, 0), gate=3):
    """The first block gives its bias. The second reads the right neighbour, scales by its gate, and gives 3 x + 1."""
    out = {}
    for block in ("mb_block.1.block", "mb_block.2.block"):
        out[f"{block}.0.0.weight"] = np.zeros((2, 1, 3, 3))
        out[f"{block}.0.0.weight"][:, 0, 1, 2] = 1
        out |= {f"{block}.0.1.weight": np.ones(2), f"{block}.0.1.bias": np.zeros(2)}
        out |= {f"{block}.1.fc1.weight": np.zeros((8, 2, 1, 1)), f"{block}.1.fc1.bias": np.zeros(8)}
        out |= {f"{block}.1.fc2.weight": np.zeros((2, 8, 1, 1)), f"{block}.1.fc2.bias": np.full(2, gate)}
        out[f"{block}.2.0.weight"] = np.eye(2)[..., None, None]
    out |= {"mb_block.1.block.2.1.weight": np.zeros(2), "mb_block.1.block.2.1.bias": np.array(first_bias)}
    return out | {"mb_block.2.block.2.1.weight": np.full(2, 3), "mb_block.2.block.2.1.bias": np.ones(2)}


def run(tmp_path, given, params=None):
    np.savez(tmp_path / "w.npz", **given)
    return every_way(make("ldp", {"weights": str(tmp_path / "w.npz"), **(params or {})}), CASE, tokens()).items()


def test_the_second_block_reads_every_second_place(tmp_path):
    right = LARGER[::2, 1::2].ravel()
    for way, got in run(tmp_path, arrays()):
        np.testing.assert_allclose(
            got.tokens[0], np.where(right[:, None] == 1, [4, -2], [-2, 4]), rtol=1e-3, err_msg=way
        )
        assert got.kept_indices.tolist() == [[0, 2, 8, 10]] and got.sizes.tolist() == [[1] * 4], way
        assert got.assignment.tolist() == [[0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 3, 3, 2, 2, 3, 3]], way


def test_the_first_block_is_added_to_what_it_reads(tmp_path):
    for way, got in run(tmp_path, arrays(first_bias=(1000, 0))):
        np.testing.assert_allclose(got.tokens[0], [[4, -2]] * 4, rtol=1e-3, err_msg=way)


def test_a_closed_gate_leaves_the_bias(tmp_path):
    for way, got in run(tmp_path, arrays(gate=-3)):
        np.testing.assert_allclose(got.tokens[0], [[1, 1]] * 4, rtol=1e-3, err_msg=way)


def test_the_mlp_is_part_of_it_where_asked_for(tmp_path):
    # GELU is the identity on what is large; the second layer swaps the channels.
    layers = {"mlp.1.weight": np.eye(2), "mlp.1.bias": np.zeros(2), "mlp.3.weight": np.eye(2)[::-1]}
    layers |= {"mlp.3.bias": np.zeros(2)}
    right = LARGER[::2, 1::2].ravel()
    for way, got in run(tmp_path, {**arrays(), **layers}, {"mlp": True}):
        np.testing.assert_allclose(
            got.tokens[0], np.where(right[:, None] == 1, [-2, 4], [4, -2]), rtol=1e-3, err_msg=way
        )


def test_an_odd_side_has_a_last_slot_of_its_own(tmp_path):
    np.savez(tmp_path / "w.npz", **arrays())
    rows = np.zeros((1, 15, 2), np.float32)
    case = Case(15, 2, 6, grid=(3, 5))
    for way, got in every_way(make("ldp", {"weights": str(tmp_path / "w.npz")}), case, rows).items():
        assert got.kept_indices.tolist() == [[0, 2, 4, 10, 12, 14]], way
        assert got.assignment.tolist() == [[0, 0, 1, 1, 2, 0, 0, 1, 1, 2, 3, 3, 4, 4, 5]], way


def test_squeezed_channels_are_those_of_mobilenet():
    assert [squeezed_channels(wide) for wide in (2, 32, 44, 48, 76, 80, 2048)] == [8, 8, 16, 16, 24, 24, 512]


@pytest.mark.parametrize(
    ("params", "case", "message"),
    [
        ({}, Case(16, 2, 5, grid=(4, 4)), r"ldp cannot keep 5 of 4x4.*--keep 4 \(2x2\)"),
        ({}, Case(15, 2, 2, grid=(3, 5)), r"--keep 6 \(2x3\)"),
        ({}, Case(16, 2, 4, grid=(16,)), "ldp needs a grid of rows and columns"),
        ({"mlp": True}, CASE, "ldp with mlp=True and channels=0 .*an MLP needs --set weights"),
        ({"channels": 3, "weights": "x"}, CASE, "Other channels need --set mlp=true"),
    ],
)
def test_refusals(params, case, message):
    with pytest.raises(RequestError, match=message):
        make("ldp", params).check(case)
