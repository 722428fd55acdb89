"""A head that pools by attention of a learned probe: tokens end there, and merged ones keep their weight in it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from exported_models import Toy, by_name, run
from tokexport.graph_passes.compress import compress
from tokexport.graph_passes.seams.find import resolve

N, D = 16, 8


def pooled(toy: Toy, x: ir.Value, probes: int, *, turned: bool) -> ir.Value:
    """[1, N, D] -> [1, probes, D]; `turned` as nn.MultiheadAttention, which wants the batch second."""
    probe = toy.weight(probes, D)
    read = toy.op("Transpose", x, perm=[1, 0, 2]) if turned else x
    k, v = (toy.op("Add", toy.op("MatMul", read, toy.weight(D, D)), toy.weight(D)) for _ in range(2))
    k, v = (toy.op("Transpose", one, perm=[1, 0, 2]) for one in (k, v)) if turned else (k, v)
    logits = toy.op("MatMul", probe, toy.op("Transpose", k, perm=[0, 2, 1]))
    return toy.op("MatMul", toy.op("Softmax", logits, axis=-1), v)


def encoder(*, turned: bool = False, probes: int = 1, projector: bool = False) -> ir.Model:
    toy = Toy()
    x = toy.op("MatMul", toy.input("tokens", 1, N, D), toy.weight(D, D))
    x = toy.op("Identity", toy.block(toy.block(x, D, 2), D, 2), name="encoded")
    x = toy.op("MatMul", x, toy.weight(D, D)) if projector else x
    return toy.output(toy.op("Tanh", pooled(toy, x, probes, turned=turned), name="y"))


def repeated() -> dict[str, np.ndarray]:
    """Five tokens, one of which stands twelve times."""
    rows = np.random.default_rng(0).standard_normal((5, D)).astype(np.float32)
    return {"tokens": rows[[0] * 12 + [1, 2, 3, 4]][None]}


@pytest.mark.parametrize("turned", [False, True])
def test_the_seam_is_upstream_of_the_head(turned: bool) -> None:
    seams = by_name(encoder(turned=turned))
    assert set(seams) == {"encoder_output"}
    seam = seams["encoder_output"]
    assert (seam.valid, seam.tokens) == (True, N) and "received_attention" in seam.signals


@pytest.mark.parametrize("turned", [False, True])
def test_equal_tokens_that_are_merged_keep_their_weight(turned: bool) -> None:
    model = encoder(turned=turned)
    (whole,) = run(encoder(turned=turned), repeated())
    short = compress(model, "kcenter_merge", keep=5, seam="encoder_output")
    np.testing.assert_allclose(run(short, repeated())[0], whole, rtol=1e-4, atol=1e-5)
    unbiased = compress(encoder(turned=turned), "kcenter_merge", keep=5, seam="encoder_output", size_bias="off")
    assert np.abs(run(unbiased, repeated())[0] - whole).max() > 1e-2


def test_a_projector_before_a_head_is_one() -> None:
    assert {"projector_input"} <= set(by_name(encoder(projector=True)))


def test_no_signal_is_read_from_a_head() -> None:
    """As many probes as tokens: each still looks at all of them."""
    found = resolve(encoder(probes=N), "tensor:y")
    assert (found.tokens, found.signals) == (N, {})
