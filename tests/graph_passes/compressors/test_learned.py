"""Methods with trained weights, here random ones: tokenlearner, ldpv2, qformer, window_qformer."""

import numpy as np
import pytest
from body_runner import every_way
from hypothesis import given, settings
from properties import QUICK, check_agreement, check_batches, inputs
from tokexport.errors import RequestError
from tokexport.graph_passes.compressors import Case, make

SMALL = {"layers": 3, "heads": 2, "channels": 6}
METHODS = {
    "tokenlearner": ({"hidden": 8}, Case(13, 5, 4)),
    "ldpv2": ({}, Case(15, 5, 4, grid=(3, 5))),
    "ldpv2 mlp": ({"mlp": True, "channels": 7}, Case(15, 5, 9, grid=(3, 5))),
    "qformer": (SMALL, Case(13, 5, 4)),
    "window_qformer": ({**SMALL, "window": 5, "queries": 2}, Case(13, 5, 4)),
}


def random_weights(name, params, case, path):
    """A file with arrays of the shapes that a method asks for."""
    asked = {}

    def ask(method, file, shapes):
        asked.update(shapes)
        raise RequestError("asked")

    module = __import__(f"tokexport.graph_passes.compressors.{name.split()[0]}", fromlist=["load_weights"])
    with pytest.MonkeyPatch.context() as patch, pytest.raises(RequestError, match="asked"):
        patch.setattr(module, "load_weights", ask)
        make(name.split()[0], {**params, "weights": str(path)}).arrays(case)
    rng = np.random.default_rng(0)
    np.savez(path, **{key: rng.standard_normal(shape) / 2 for key, shape in asked.items()})


@pytest.mark.parametrize("name", METHODS)
def test_body_agrees_with_the_reference(name, tmp_path):
    params, case = METHODS[name]
    file = tmp_path / "weights.npz"
    random_weights(name, params, case, file)
    params = {**params, "weights": str(file)}

    # Random layers make a little of much: the gates of half precision would judge the weights, not the body.
    @given(drawn=inputs([case], ["normal", "correlated", "duplicate", "integer"]))
    @settings(QUICK, max_examples=10)
    def agrees(drawn):
        check_agreement(name.split()[0], params, drawn)

    agrees()
    check_batches(name.split()[0], params, case, "normal", 0)


def test_tokenlearner_weighs_by_what_it_reads_off_each_token(tmp_path):
    # One hidden unit reads the sign of the first channel; slot 0 likes it, slot 1 does not: each takes its half.
    arrays = {
        "norm.weight": [1, 1],
        "norm.bias": [0, 0],
        "up.weight": [[1, -1]],
        "up.bias": [0],
        "down.weight": [[40], [-40]],
        "down.bias": [0, 0],
    }
    np.savez(tmp_path / "w.npz", **{name: np.array(value, np.float32) for name, value in arrays.items()})
    tokens = np.array([[3, 1], [1, 3], [5, 1], [1, 5]], np.float32)[None]
    params = {"hidden": 1, "weights": str(tmp_path / "w.npz")}
    for way, got in every_way(make("tokenlearner", params), Case(4, 2, 2), tokens).items():
        np.testing.assert_allclose(got.tokens, [[[4, 1], [1, 4]]], atol=1e-3, err_msg=way)
        assert got.kept_indices.tolist() == [[1, 3]] and got.assignment.tolist() == [[-1] * 4], way


def test_ldpv2_is_pooling_until_it_has_learned(tmp_path):
    tokens = np.arange(16, dtype=np.float32).reshape(1, 16, 1)
    case = Case(16, 1, 4, grid=(4, 4))
    for way, got in every_way(make("ldpv2"), case, tokens).items():
        assert got.tokens.ravel().tolist() == [2.5, 4.5, 10.5, 12.5], way
        assert got.kept_indices.tolist() == [[0, 2, 8, 10]] and got.sizes.tolist() == [[1] * 4], way
        assert got.assignment.tolist() == [[0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 3, 3, 2, 2, 3, 3]], way
    kernel = np.zeros((1, 1, 3, 3), np.float32)
    kernel[0, 0, 1, 2] = 2  # twice the right neighbour
    np.savez(tmp_path / "w.npz", **{"peg.weight": kernel, "peg.bias": np.ones(1, np.float32)})
    for way, got in every_way(make("ldpv2", {"weights": str(tmp_path / "w.npz")}), case, tokens).items():
        assert got.tokens.ravel().tolist() == [12.5, 5.5, 36.5, 13.5], way


def test_window_qformer_puts_queries_in_the_middle_of_their_parts(tmp_path):
    params, case = METHODS["window_qformer"]
    random_weights("window_qformer", params, case, tmp_path / "w.npz")
    tokens = np.random.default_rng(0).standard_normal((1, 13, 5)).astype(np.float32)
    for way, got in every_way(
        make("window_qformer", {**params, "weights": str(tmp_path / "w.npz")}), case, tokens
    ).items():
        assert got.kept_indices.tolist() == [[1, 3, 6, 8]], way
        assert got.assignment.tolist() == [[0, 0, 0, 1, 1, 2, 2, 2, 3, 3, -1, -1, -1]], way


@pytest.mark.parametrize(
    ("method", "params", "case", "message"),
    [
        ("ldpv2", {}, Case(16, 1, 5, grid=(4, 4)), r"cannot keep 5 of 4x4.*--keep 4 \(2x2\) or --keep 9 \(3x3\)"),
        ("ldpv2", {"mlp": True}, Case(16, 1, 4, grid=(4, 4)), "an MLP needs --set weights"),
        ("ldpv2", {"channels": 3, "weights": "x"}, Case(16, 1, 4, grid=(4, 4)), "Other channels need --set mlp=true"),
        ("ldpv2", {}, Case(16, 1, 4, grid=(16,)), "rows and columns"),
        ("qformer", {"heads": 5}, Case(16, 1, 4), "heads divide channels"),
        ("window_qformer", {}, Case(16, 1, 4), "queries=1 in windows of 17 of 16 frames"),
        ("window_qformer", {"window": 5}, Case(16, 1, 4), r"cannot keep 4.*--keep 3 \(3 windows\)"),
    ],
)
def test_refusals(method, params, case, message):
    with pytest.raises(RequestError, match=message):
        make(method, params).check(case)


@pytest.mark.parametrize("method", ["tokenlearner", "qformer", "window_qformer"])
def test_methods_that_are_nothing_without_weights_say_so(method):
    with pytest.raises(RequestError, match="nothing without weights"):
        make(method).arrays(Case(17, 4, 1))
