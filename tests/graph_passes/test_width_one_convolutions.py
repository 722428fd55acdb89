"""A head that is a Conv1d of width one works on each token alone, as a linear layer does; a wider one does not."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from exported_models import Toy, by_name, run
from tokexport.errors import RequestError
from tokexport.graph_passes.compress import compress

N, D = 16, 8


def model(width: int = 1, *, turned_back: bool = True, normed: bool = False, stride: int = 1) -> ir.Model:
    toy = Toy()
    x = toy.op("MatMul", toy.input("sound", 1, N, D), toy.weight(D, D))
    x = toy.op("Transpose", toy.block(toy.block(x, D, 2), D, 2), perm=[0, 2, 1], name="turned")
    if normed:
        x = toy.op("LayerNormalization", x, toy.weight(N), axis=-1)
    x = toy.op("Conv", x, toy.weight(5, D, width), toy.weight(5), pads=[width // 2] * 2, strides=[stride], name="conv")
    x = toy.op("Relu", x)
    return toy.output(
        toy.op("Transpose", x, perm=[0, 2, 1], name="y") if turned_back else toy.op("Identity", x, name="y")
    )


def sound() -> dict[str, np.ndarray]:
    return {"sound": np.random.default_rng(0).standard_normal((1, N, D)).astype(np.float32)}


@pytest.mark.parametrize("turned_back", [True, False])
def test_tokens_shrink_before_it(turned_back: bool) -> None:
    whole = model(turned_back=turned_back)
    assert by_name(whole)["encoder_output"].valid
    short = compress(whole, "uniform", keep=4, seam="encoder_output")
    kept = next(value for value in short.graph.outputs if value.name == "kept_indices")
    result, where = run(short, sound(), [short.graph.outputs[0], kept])
    (full,) = run(model(turned_back=turned_back), sound())
    np.testing.assert_allclose(result, np.take(full, where[0], axis=1 if turned_back else 2), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("wide", [{"width": 3}, {"width": 1, "stride": 2}])
def test_a_wider_one_is_refused_by_name(wide: dict[str, int]) -> None:
    seam = by_name(model(**wide))["encoder_output"]
    assert not seam.valid and seam.why.startswith("Conv 'node")
    with pytest.raises(RequestError, match="Conv 'node"):
        compress(model(**wide), "uniform", keep=4, seam="encoder_output")


def test_a_norm_over_turned_tokens_mixes_them() -> None:
    assert not by_name(model(normed=True))["encoder_output"].valid
