"""A signal is read only from self-attention of exactly the tokens at the seam."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from exported_models import Toy, by_name
from tokexport.errors import RequestError
from tokexport.graph_passes.compress import compress

N, D = 16, 8


def cross_attention(toy: Toy, x: ir.Value, other: ir.Value) -> ir.Value:
    """Queries of the tokens, keys and values of as many others."""
    q, k, v = (toy.op("MatMul", source, toy.weight(D, D)) for source in (x, other, other))
    logits = toy.op("MatMul", q, toy.op("Transpose", k, perm=[0, 2, 1]))
    mixed = toy.op("MatMul", toy.op("Softmax", logits, axis=-1), v)
    return toy.op("Add", x, toy.op("MatMul", mixed, toy.weight(D, D)))


def encoder(*, cross: bool) -> ir.Model:
    toy = Toy()
    x = toy.op("MatMul", toy.input("tokens", 1, N, D), toy.weight(D, D))
    x = toy.block(toy.block(x, D, 2), D, 2)
    if cross:
        x = cross_attention(toy, x, toy.op("MatMul", toy.input("text", 1, N, D), toy.weight(D, D)))
    return toy.output(toy.op("Identity", x, name="y"))


def test_self_attention_of_these_tokens_gives_signals() -> None:
    assert {"keys", "received_attention"} <= set(by_name(encoder(cross=False))["encoder_output"].signals)


def test_cross_attention_to_as_many_others_gives_none() -> None:
    assert by_name(encoder(cross=True))["encoder_output"].signals == {}
    with pytest.raises(RequestError, match="has no signal"):
        compress(encoder(cross=True), "audio_topk", keep=4, seam="encoder_output")


@pytest.mark.parametrize("attention", ["words", "raters", "peak"])
def test_no_words_are_in_an_encoder(attention: str) -> None:
    """And what is said to do instead works."""
    cure = r"--seam decoder_layer:1.* --method cls_topk --set attention=received\."
    with pytest.raises(RequestError, match=rf"encoder, which reads no words.*{cure}"):
        compress(encoder(cross=False), "cls_topk", keep=4, seam="encoder_output", params={"attention": attention})
    compress(encoder(cross=False), "cls_topk", keep=4, seam="encoder_output", params={"attention": "received"})


def test_tokens_in_another_order_give_none() -> None:
    """Attention over [4, 4] places, then the places turned round: a mean of columns is not one of these tokens."""
    toy = Toy()
    x = toy.op("MatMul", toy.input("tokens", 1, N, D), toy.weight(D, D))
    x = toy.block(toy.block(x, D, 2), D, 2)
    x = toy.op("Reshape", x, toy.const([4, 4, 1, D]))
    x = toy.op("Reshape", toy.op("Transpose", x, perm=[1, 0, 2, 3]), toy.const([1, N, D]))
    seam = by_name(toy.output(toy.op("Identity", x, name="y")))
    assert all(found.signals == {} or found.tensor != "y" for found in seam.values())
