import numpy as np
import pytest
from body_runner import every_way
from tokexport.errors import RequestError
from tokexport.graph_passes.compressors import Case, make

# Two frames of four; the largest of channel 0 and of channel 1 stand apart.
TOKENS = np.array([[8, 0], [0, 4], [1, 1], [1, 1], [0, 0], [2, 2], [0, 9], [9, 0]], np.float32)[None]
FIRST = np.array([[1, 0], [0, 0], [0, 0], [0, 0]], np.float32)[None]
BOTH = np.array([[1, 0], [0, 0], [0, 1], [0, 0]], np.float32)[None]
IDENTITY = {"weight": np.eye(2), "bias": np.zeros(2)}


def run(tmp_path, params, case, text, given=None):
    """The query is 100 times the text; keys and values are the tokens."""
    layers = {"vlm_att_projector": {**IDENTITY, "weight": 100 * np.eye(2)}, "vlm_att_key_projector": IDENTITY}
    layers |= {"vlm_att_val_projector": IDENTITY, **(given or {})}
    arrays = {f"{name}.{kind}": array for name, layer in layers.items() for kind, array in layer.items()}
    np.savez(tmp_path / "w.npz", **arrays)
    compressor = make("llama_vid", {**params, "weights": str(tmp_path / "w.npz")})
    return every_way(compressor, case, TOKENS, text=text).items()


VIDEO = Case(8, 2, 4, grid=(2, 2, 2))


@pytest.mark.parametrize(
    ("text", "contexts"), [(FIRST, [[8, 0], [9, 0]]), (BOTH, [[4, 2], [4.5, 4.5]]), (0 * FIRST, [[0, 0], [0, 0]])]
)
def test_context_is_what_each_row_of_the_text_looks_at(tmp_path, text, contexts):
    means = TOKENS.reshape(2, 4, 2).mean(1)
    expected = [contexts[0], means[0], contexts[1], means[1]]
    for way, got in run(tmp_path, {}, VIDEO, text):
        np.testing.assert_allclose(got.tokens[0], expected, atol=1e-4, err_msg=way)
        assert got.kept_indices.tolist() == [[1, 3, 5, 7]] and got.sizes.tolist() == [[1] * 4], way
        assert got.assignment.tolist() == [[-1] * 8], way


def test_a_picture_is_one_frame_and_content_a_grid(tmp_path):
    picture = Case(8, 2, 5, grid=(2, 4))
    means = TOKENS.reshape(2, 2, 2, 2).mean(2).reshape(4, 2)
    for way, got in run(tmp_path, {}, picture, FIRST):
        np.testing.assert_allclose(got.tokens[0], [[9, 0], *means], atol=1e-4, err_msg=way)


def test_text_may_be_queries_already(tmp_path):
    for way, got in run(tmp_path, {"query": False}, VIDEO, 100 * FIRST):
        np.testing.assert_allclose(got.tokens[0, ::2], [[8, 0], [9, 0]], atol=1e-4, err_msg=way)


def test_the_projector_reads_content_and_not_context(tmp_path):
    # GELU of what is 0 or 100 more is what it was; three channels come out.
    wide = np.array([[1, 0], [0, 1], [1, 1]])
    more = {"mm_projector.0": {"weight": 0 * wide, "bias": np.full(3, 100)}}
    more |= {"mm_projector.2": {"weight": np.eye(3), "bias": np.array([0, 0, 7])}}
    more |= {"vlm_att_val_projector": {"weight": wide, "bias": np.zeros(3)}}
    for way, got in run(tmp_path, {"mlp": True, "channels": 3}, VIDEO, FIRST, more):
        expected = [[8, 0, 8], [100, 100, 107], [9, 0, 9], [100, 100, 107]]
        np.testing.assert_allclose(got.tokens[0], expected, atol=1e-4, err_msg=way)


@pytest.mark.parametrize(
    ("params", "case", "message"),
    [
        ({}, Case(8, 2, 3, grid=(2, 2, 2)), r"cannot keep 3 .*--keep 4 \(a 1x1 grid\)"),
        # Two frames with five slots each would be more than there are tokens.
        ({}, Case(8, 2, 10, grid=(2, 2, 2)), r"All: 4\."),
        ({}, Case(8, 2, 2, grid=(8,)), "needs an image or a video, and the grid is 8"),
        ({}, Case(8, 2, 2), "needs the grid of the tokens"),
        ({"mlp": True}, VIDEO, "an MLP needs --set weights"),
        ({"channels": 5, "weights": "x"}, VIDEO, "Other channels need --set mlp=true"),
    ],
)
def test_refusals(params, case, message):
    with pytest.raises(RequestError, match=message):
        make("llama_vid", params).check(case)
