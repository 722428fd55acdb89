import numpy as np
import pytest
from body_runner import every_way
from learned_weights import asked_shapes
from tokexport.errors import RequestError
from tokexport.graph_passes.compressors import Case, make

SMALL = {"memory": 1, "heads": 1, "hidden": 1, "mlp": 1, "layers": 0}
# Two frames of two tokens.
TOKENS = np.array([[3, 0], [3, 0], [-0.5, 0], [-0.5, 0]], np.float32)[None]
VIDEO = (2, 1, 2)


def run(tmp_path, params, keep, given):
    """All arrays are 0, so that reading and writing are plain means, but for the last norm, which is one."""
    params, case = {**SMALL, **params}, Case(4, 2, keep, grid=VIDEO)
    arrays = {name: np.zeros(shape) for name, shape in asked_shapes("ttm", params, case).items()}
    np.savez(tmp_path / "w.npz", **{**arrays, "process.norm.weight": np.ones(2), **given})
    return every_way(make("ttm", {**params, "weights": str(tmp_path / "w.npz")}), case, TOKENS).items()


def test_the_output_of_the_second_frame_depends_on_the_memory(tmp_path):
    # Read (2, 0) gives (1, -1); written are the means (7, -1) / 4 of it, the frame and the empty memory; then read is
    # (.75, -.25) / 3, though the second frame alone leans the other way.
    for way, got in run(tmp_path, {}, 2, {}):
        np.testing.assert_allclose(got.tokens[0], [[1, -1], [1, -1]], rtol=1e-3, err_msg=way)
        assert got.kept_indices.tolist() == [[1, 3]] and got.assignment.tolist() == [[-1] * 4], way


def test_the_write_reads_what_was_processed(tmp_path):
    # The first frame now gives (-9, 9): the memory is (-3, 9) / 4, and it decides.
    flipped = {"process.norm.weight": np.full(2, -9)}
    for way, got in run(tmp_path, {}, 2, flipped):
        np.testing.assert_allclose(got.tokens[0], [[-9, 9], [9, -9]], rtol=1e-3, err_msg=way)


def test_the_last_frame_alone(tmp_path):
    for way, got in run(tmp_path, {"output": "last"}, 1, {"process.norm.bias": np.array([0, 5])}):
        # Of (1, 4), (0, 0) and twice (3, 0) the memory is (7, 4) / 4.
        np.testing.assert_allclose(got.tokens[0], [[-1, 6]], rtol=1e-3, err_msg=way)


@pytest.mark.parametrize(
    ("read", "write", "slots"),
    [
        # What is read of both frames moves by (0, 3).
        ([[0, 9], [0, 0], [0, 0]], [[0, 0]] * 4, [[-1, 1], [-1, 1]]),
        # The memory becomes (7, 89) / 4, after the first frame was processed.
        ([[0, 0]] * 3, [[0, 90], [0, 0], [0, 0], [0, 0]], [[1, -1], [-1, 1]]),
    ],
)
def test_positions_are_added_before_reading_and_writing(tmp_path, read, write, slots):
    places = {"read.positions": np.array(read), "write.positions": np.array(write)}
    for way, got in run(tmp_path, {"embed": True}, 2, places):
        np.testing.assert_allclose(got.tokens[0], slots, rtol=1e-3, err_msg=way)


# The output of attention is its bias, (0, 7), and the network's comes on top.
@pytest.mark.parametrize(("network", "slots"), [([0, 0], [[-1, 1], [-1, 1]]), ([20, 0], [[1, -1], [1, -1]])])
def test_a_layer_adds_attention_and_a_network(tmp_path, network, slots):
    biases = {"process.0.attention.out.bias": np.array([0, 7]), "process.0.down.bias": np.array(network)}
    for way, got in run(tmp_path, {"layers": 1}, 2, biases):
        np.testing.assert_allclose(got.tokens[0], slots, rtol=1e-3, err_msg=way)


@pytest.mark.parametrize(
    ("params", "case", "message"),
    [
        ({}, Case(16, 12, 3, grid=(4, 2, 2)), r"cannot keep 3 .*--keep 4 \(1 for each of 4 frames\)"),
        ({"output": "last"}, Case(16, 12, 17, grid=(4, 2, 2)), r"keep 17 is outside 1\.\.16"),
        ({}, Case(16, 8, 4, grid=(4, 2, 2)), r"heads=12.*8 channels.*as --set heads=8"),
        ({"memory": 0}, Case(16, 12, 4, grid=(4, 2, 2)), "memory=0"),
        ({}, Case(16, 12, 4, grid=(4, 4)), "needs a video"),
    ],
)
def test_refusals(params, case, message):
    with pytest.raises(RequestError, match=message):
        make("ttm", params).check(case)
