"""Padding is never a token: a graph whose mask depends on an input is refused until the user says there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from exported_models import Toy, run
from tokexport.errors import GraphError
from tokexport.graph_passes.compress import compress
from tokexport.graph_passes.ir_tools.walk import Walk
from tokexport.graph_passes.seams.padding import _MASK_INPUTS, refuse_padding

N, D = 12, 8
BIG = -1e4


def additive(toy: Toy) -> ir.Value:
    """[1, 1, 1, N] from an integer mask."""
    mask = toy.input("attention_mask", 1, N, dtype=ir.DataType.INT64)
    off = toy.op("Sub", toy.const(np.float32(1)), toy.op("Cast", mask, to=1))
    return toy.op("Unsqueeze", toy.op("Mul", off, toy.const(np.float32(BIG))), toy.const([1, 2]))


def from_length(toy: Toy) -> ir.Value:
    """[1, 1, 1, N] from a number of frames."""
    length = toy.input("length", 1, dtype=ir.DataType.INT64)
    inside = toy.op("Less", toy.const(np.arange(N)), length)
    mask = toy.op("Where", inside, toy.const(np.float32(0)), toy.const(np.float32(BIG)))
    return toy.op("Unsqueeze", mask, toy.const([0, 1, 2]))


def given(toy: Toy) -> ir.Value:
    """[1, 1, N, N], float, as an input."""
    return toy.input("bias", 1, 1, N, N)


def causal(toy: Toy) -> ir.Value:
    """The same for every input."""
    return toy.const(np.triu(np.full((N, N), BIG, np.float32), 1)[None, None])


def from_sizes(toy: Toy) -> ir.Value:
    """Computed from the shape of the input, not from what it holds."""
    length = toy.op("Squeeze", toy.op("Shape", toy.graph.inputs[0], start=1, end=2))
    places = toy.op("Range", toy.const(np.array(0)), length, toy.const(np.array(1)))
    later = toy.op("Less", toy.op("Unsqueeze", places, toy.const([1])), places)
    return toy.op("Where", later, toy.const(np.float32(BIG)), toy.const(np.float32(0)))


class SpelledOut(Toy):
    """Without the operator Softmax, as an optimiser may inline it."""

    def op(self, op_type: str, *inputs: ir.Value | None, name: str = "", **attributes: Any) -> ir.Value:
        if op_type != "Softmax":
            return super().op(op_type, *inputs, name=name, **attributes)
        powers = super().op("Exp", *inputs)
        return super().op("Div", powers, super().op("ReduceSum", powers, self.const([-1]), keepdims=1))


def encoder(
    mask: Callable[[Toy], ir.Value] | None,
    gate: Callable[[Toy, ir.Value], ir.Value] | None = None,
    kind: type[Toy] = Toy,
) -> ir.Model:
    toy = kind()
    x = toy.op("MatMul", toy.input("frames", 1, N, D), toy.weight(D, D))
    masked = mask(toy) if mask is not None else None
    x = gate(toy, x) if gate is not None else x
    for _ in range(2):
        x = toy.block(x, D, 2, mask=masked)
    return toy.output(toy.op("Identity", x, name="y"))


def gate_product(toy: Toy, x: ir.Value) -> ir.Value:
    mask = toy.op("Cast", toy.input("valid", 1, N, dtype=ir.DataType.BOOL), to=1)
    return toy.op("Mul", x, toy.op("Unsqueeze", mask, toy.const([2])))


def gate_where(toy: Toy, x: ir.Value) -> ir.Value:
    mask = toy.op("Unsqueeze", toy.input("valid", 1, N, dtype=ir.DataType.BOOL), toy.const([2]))
    return toy.op("Where", mask, x, toy.const(np.float32(0)))


@pytest.mark.parametrize(("mask", "source"), [(additive, "attention_mask"), (from_length, "length"), (given, "bias")])
@pytest.mark.parametrize("method", ["kcenter_merge", "divprune"])
def test_attention_masked_by_an_input_is_refused_and_names_it(mask, source: str, method: str) -> None:
    with pytest.raises(GraphError, match=rf"'{source}'.*--assume-no-padding"):
        compress(encoder(mask), method, keep=4)


def test_a_mask_is_seen_where_the_softmax_is_arithmetic() -> None:
    with pytest.raises(GraphError, match=r"'attention_mask'.*--assume-no-padding"):
        compress(encoder(additive, kind=SpelledOut), "kcenter_merge", keep=4)
    assert compress(encoder(causal, kind=SpelledOut), "kcenter_merge", keep=4)


@pytest.mark.parametrize("gate", [gate_product, gate_where])
def test_tokens_zeroed_by_an_input_are_refused(gate) -> None:
    with pytest.raises(GraphError, match=r"'valid'.*--assume-no-padding"):
        compress(encoder(None, gate), "kcenter_merge", keep=4)


@pytest.mark.parametrize("mask", [None, causal, from_sizes])
def test_what_follows_from_constants_and_sizes_masks_no_padding(mask) -> None:
    assert compress(encoder(mask), "kcenter_merge", keep=4).graph.outputs[0].shape == [1, 4, D]


def test_a_bias_computed_from_the_tokens_is_no_padding() -> None:
    toy = Toy()
    x = toy.op("MatMul", toy.input("frames", 1, N, D), toy.weight(D, D))
    bias = toy.op("Unsqueeze", toy.op("MatMul", x, toy.weight(D, N)), toy.const([1]))
    x = toy.block(toy.block(x, D, 2, mask=bias), D, 2)
    assert compress(toy.output(toy.op("Identity", x, name="y")), "kcenter_merge", keep=4)


def test_the_cure_cures() -> None:
    model = encoder(additive)
    with pytest.raises(GraphError, match="assume_no_padding=True"):
        compress(model, "kcenter_merge", keep=4)
    feeds = {"frames": np.random.default_rng(0).standard_normal((1, N, D)).astype(np.float32)}
    whole = run(model, feeds | {"attention_mask": np.ones((1, N), np.int64)})[0]
    small = compress(model, "divprune", keep=4, assume_no_padding=True)
    kept, rows = (run(small, feeds | {"attention_mask": np.ones((1, N), np.int64)})[i] for i in (1, 0))
    np.testing.assert_allclose(rows[0], whole[0, kept[0]], rtol=1e-5)


def test_tokens_times_a_number_for_each_from_an_input_are_masked() -> None:
    toy = Toy()
    x = toy.op("MatMul", toy.input("tokens", 1, N, D), toy.weight(D, D))
    x = toy.op("Mul", x, toy.input("pixel_mask", 1, N, 1))
    model = toy.output(toy.op("Identity", toy.block(toy.block(x, D, 2), D, 2), name="y"))
    with pytest.raises(GraphError, match=r"input 'pixel_mask'.*--assume-no-padding"):
        compress(model, "kcenter_merge", keep=4)
    assert compress(model, "kcenter_merge", keep=4, assume_no_padding=True)


def masked_by_lengths(operator: str, at: int, count: int, *, learned: bool = False) -> ir.Model:
    """An attention of com.microsoft whose operand `at` says how long the sequence really is."""
    toy = Toy()
    toy.model.opset_imports["com.microsoft"] = 1
    x = toy.op("MatMul", toy.input("tokens", 1, N, D), toy.weight(D, D), name="x")
    operands: list[ir.Value | None] = [x, *([None] * (count - 1))]
    operands[at] = toy.const(np.array([N], np.int32)) if learned else toy.input("length", 1, dtype=ir.DataType.INT32)
    mixed = toy.op(operator, *operands)
    mixed.producer().domain = "com.microsoft"
    return toy.output(toy.op("Add", x, toy.op("MatMul", mixed, toy.weight(D, D)), name="y"))


@pytest.mark.parametrize(
    ("operator", "at"),
    [(operator, at) for (domain, operator), places in _MASK_INPUTS.items() if domain for at in places],
)
def test_lengths_and_masks_of_fused_attention_are_seen(operator: str, at: int) -> None:
    with pytest.raises(GraphError, match=rf"{operator} .*'length'.*--assume-no-padding"):
        refuse_padding(Walk(masked_by_lengths(operator, at, at + 1)), "x")
    refuse_padding(Walk(masked_by_lengths(operator, at, at + 1, learned=True)), "x")


def test_no_mask_of_an_attention_of_onnx_runtime_is_forgotten() -> None:
    state = pytest.importorskip("onnxruntime.capi.onnxruntime_pybind11_state")
    masks = {
        *("mask", "mask_index", "key_padding_mask", "attention_bias", "seqlens_k", "total_sequence_length"),
        *("token_offset", "cumulative_sequence_length", "key_total_sequence_lengths"),
    }
    for schema in state.get_all_operator_schema():
        if schema.domain == "com.microsoft" and schema.name.endswith("Attention"):
            there = {i for i, one in enumerate(schema.inputs) if one.name in masks}
            assert there <= {*_MASK_INPUTS.get((schema.domain, schema.name), ())}, schema.name
