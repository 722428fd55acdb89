"""What all methods with trained weights have in common, here random ones, and the small ones among them."""

import re

import numpy as np
import pytest
from body_runner import body_model, every_way
from learned_weights import random_weights
from properties import own_examples
from tokexport.errors import RequestError
from tokexport.graph_passes.compressors import Case, base, compressor_class, make
from tokexport.graph_passes.compressors.blocks.weights import ReadsWeights

# Name of an example -> its parameters and first case.
METHODS = {
    method if not number else f"{method} {number}": (example.params, example.cases[0])
    for method in sorted(base.built_in())
    if issubclass(compressor_class(method), ReadsWeights)
    for number, example in enumerate(own_examples(method))
}
# As released, but for narrow channels: how many nodes there are does not depend on them.
RELEASED = {
    "ldp": ({"mlp": True}, Case(576, 4, 144, grid=(24, 24)), 100),
    "stc": ({}, Case(4608, 4, 845, grid=(8, 24, 24)), 400),
    "ttm": ({}, Case(1024, 12, 128, grid=(8, 8, 16)), 2000),
    "llava_mini": ({}, Case(576, 8, 4, grid=(24, 24)), 100),
    "llama_vid": ({"mlp": True}, Case(2048, 4, 16, grid=(8, 16, 16)), 100),
}


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
    random_weights("window_qformer", params, case, tmp_path / "w.npz", spread=0.5)
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
        ("qformer", {"heads": 5}, Case(16, 1, 4), "heads must divide channels"),
        ("window_qformer", {}, Case(16, 1, 4), "queries=1 in windows of 17 of 16 frames"),
        ("window_qformer", {"window": 5}, Case(16, 1, 4), r"cannot keep 4.*--keep 3 \(3 windows\)"),
    ],
)
def test_refusals(method, params, case, message):
    with pytest.raises(RequestError, match=message):
        make(method, params).check(case)


@pytest.mark.parametrize("name", [name for name in METHODS if name.split()[0] not in ("ldpv2", "conv1d")])
def test_methods_that_are_nothing_without_weights_say_so(name):
    params, case = METHODS[name]
    with pytest.raises(RequestError, match=f"{name.split()[0]} needs trained weights"):
        make(name.split()[0], params).arrays(case)


@pytest.mark.parametrize("name", METHODS)
def test_a_file_that_does_not_fit_is_refused_by_the_array(name, tmp_path):
    (params, case), method = METHODS[name], name.split()[0]
    random_weights(method, params, case, tmp_path / "w.npz")
    arrays = dict(np.load(tmp_path / "w.npz"))
    first, *_, last = arrays
    np.savez(tmp_path / "few.npz", **{key: array for key, array in arrays.items() if key != last})
    np.savez(tmp_path / "wide.npz", **{**arrays, first: arrays[first][..., None]})
    with pytest.raises(RequestError, match=f"no array '{re.escape(last)}'.*method '{method}'.*few.npz"):
        make(method, {**params, "weights": str(tmp_path / "few.npz")}).arrays(case)
    shape = list(arrays[first].shape)
    message = f"array '{first}' is {[*shape, 1]}, but these tokens need {shape}"
    with pytest.raises(RequestError, match=re.escape(message)):
        make(method, {**params, "weights": str(tmp_path / "wide.npz")}).arrays(case)


@pytest.mark.parametrize("method", RELEASED)
def test_the_released_sizes_are_small_graphs(method, tmp_path):
    params, case, limit = RELEASED[method]
    random_weights(method, params, case, tmp_path / "w.npz")
    (function,) = body_model(make(method, {**params, "weights": str(tmp_path / "w.npz")}), case).functions.values()
    assert len(function) < limit
