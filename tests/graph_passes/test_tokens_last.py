"""A stream [B, D, N] holds channels where a compressor looks for tokens: it is refused, and the cure cures."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from exported_models import Toy, run
from tokexport.errors import RequestError
from tokexport.graph_passes.compress import compress

D, N = 8, 16


def tower(*, turned: bool = False) -> ir.Model:
    toy = Toy()
    x = toy.op("Conv", toy.input("sound", 1, 6, N), toy.weight(D, 6, 1))
    for _ in range(2):
        q, k, v = (toy.op("Conv", x, toy.weight(D, D, 1)) for _ in range(3))
        weights = toy.op("Softmax", toy.op("MatMul", toy.op("Transpose", q, perm=[0, 2, 1]), k))
        mixed = toy.op("MatMul", v, toy.op("Transpose", weights, perm=[0, 2, 1]))
        x = toy.op("Add", x, toy.op("Conv", mixed, toy.weight(D, D, 1)))
        x = toy.op("Add", x, toy.op("Conv", toy.op("Relu", x), toy.weight(D, D, 1)))
    last = {"perm": [0, 2, 1]} if turned else {}
    return toy.output(toy.op("Transpose" if turned else "Identity", x, name="y", **last))


def test_channels_are_not_taken_for_tokens() -> None:
    with pytest.raises(RequestError, match=r"along the last axis .*\.transpose\(1, 2\).*--seam tensor:OUTPUT"):
        compress(tower(), "uniform", keep=4)


def test_the_cure_cures() -> None:
    feeds = {"sound": np.random.default_rng(0).standard_normal((1, 6, N)).astype(np.float32)}
    before = run(tower(turned=True), feeds)[0]
    after, kept = run(compress(tower(turned=True), "uniform", keep=4, seam="tensor:y"), feeds)[:2]
    np.testing.assert_allclose(after, before[:, kept[0]], rtol=1e-4, atol=1e-5)
