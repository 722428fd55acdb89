"""log(size) and positions as inputs of a language model that somebody else exported, in each spelling of attention."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from foreign_decoder import DIM, HEADS, POSITIONS, SIZES, WIDTH, Graph, N, expected, spelled, tables
from tokexport.errors import GraphError
from tokexport.graph_passes.attach.attach import attach
from tokexport.graph_passes.ir_tools.ort_session import open_session


def run(model: ir.Model, bias: np.ndarray, positions: np.ndarray | None = None) -> np.ndarray:
    x = np.random.default_rng(1).standard_normal((1, N, DIM)).astype(np.float32)
    given = {
        "inputs_embeds": x,
        "token_bias": bias,
        "position_ids": positions,
        "seqlens_k": np.full(1, N - 1, np.int32),
        "total_sequence_length": np.array(N, np.int32),
    }
    session = open_session(model, threads=1)
    (made,) = session.run(None, {one.name: given[one.name] for one in session.get_inputs()})
    return made


def check(model: ir.Model, positions: np.ndarray | None = None) -> None:
    x = np.random.default_rng(1).standard_normal((1, N, DIM)).astype(np.float32)
    for bias in (np.zeros_like(SIZES), np.log(SIZES)):
        np.testing.assert_allclose(run(model, bias, positions), expected(x, bias, positions), atol=2e-6)


@pytest.mark.parametrize("kind", ["softmax", "operator", "multi-head", "grouped", "fused"])
def test_a_bias_weighs_keys_in_each_spelling(kind):
    model = spelled(kind)
    done = attach(model)
    assert done.attentions == ("attention",) and done.tokens == "inputs_embeds" and done.positions == ""
    check(model)


def test_a_mask_stays_beside_the_bias():
    g = Graph(opset=23)
    seen = g.input("seen", ir.DataType.BOOL, ["n", "n"])
    model = g.model(g.standard("Attention", g.q, g.k, g.v, seen, q_num_heads=HEADS, kv_num_heads=HEADS))
    attach(model)
    x = np.random.default_rng(1).standard_normal((1, N, DIM)).astype(np.float32)
    given = {"inputs_embeds": x, "token_bias": np.log(SIZES), "seen": np.tril(np.ones((N, N), bool))}
    (made,) = open_session(model, threads=1).run(None, given)
    np.testing.assert_allclose(made, expected(x, np.log(SIZES)), atol=2e-6)


# --- positions


def counted() -> ir.Model:
    """Positions are counted in the graph, and its mask counts the same tokens."""
    g = Graph()
    count = g.b.op("Squeeze", g.b.op("Shape", g.inputs[0], start=1, end=2))
    g.rotated(g.b.op("Unsqueeze", g.b.op("Range", 0, count, 1), [0]))
    return g.model(g.softmax())


def test_positions_that_the_graph_counts_become_an_input():
    model = counted()
    done = attach(model)
    assert done.positions == "position_ids" and done.counted
    check(model, POSITIONS)
    check(model, np.arange(N)[None])


def test_positions_are_kept_where_that_is_asked_for():
    model = counted()
    assert attach(model, positions="keep").positions == ""
    x = np.random.default_rng(1).standard_normal((1, N, DIM)).astype(np.float32)
    np.testing.assert_allclose(run(model, np.log(SIZES)), expected(x, np.log(SIZES), np.arange(N)[None]), atol=2e-6)


def test_positions_that_are_an_input_stay_it():
    g = Graph()
    g.rotated(g.input("position_ids", ir.DataType.INT64, ["batch", "n"]))
    model = g.model(g.softmax())
    done = attach(model)
    assert (done.positions, done.counted) == ("position_ids", "")
    check(model, POSITIONS)


def test_a_table_of_learned_positions_is_read_at_the_input():
    g = Graph()
    table = np.random.default_rng(2).standard_normal((32, DIM)).astype(np.float32)
    count = g.b.op("Squeeze", g.b.op("Shape", g.inputs[0], start=1, end=2))
    own = g.b.op("Gather", g.b.const(table), g.b.op("Unsqueeze", g.b.op("Range", 0, count, 1), [0]))
    x = g.b.op("Add", g.inputs[0], own)
    g.q, g.k, g.v = (g.b.op("MatMul", x, w) for w in g.held.values())
    model = g.model(g.softmax())
    assert attach(model).positions == "position_ids"
    given = np.random.default_rng(1).standard_normal((1, N, DIM)).astype(np.float32)
    np.testing.assert_allclose(
        run(model, np.log(SIZES), POSITIONS), expected(given + table[POSITIONS], np.log(SIZES)), atol=2e-6
    )


@pytest.mark.parametrize("packed", [False, True])
def test_grouped_attention_rotates_outside(packed):
    """Inside, ONNX Runtime counts positions on from the first."""
    g = Graph()
    cos, sin = (g.b.const(table) for table in tables().values())
    own = [g.b.op("Concat", g.q, g.k, g.v, axis=-1), None, None] if packed else [g.q, g.k, g.v]
    positions = g.input("position_ids", ir.DataType.INT64, ["batch", "n"])
    read = [*own, None, None, *g.lengths(), cos, sin, positions]
    model = g.model(g.contrib("GroupQueryAttention", read, num_heads=HEADS, kv_num_heads=HEADS, do_rotary=1))
    assert attach(model).rotated == 1
    check(model, POSITIONS)


def test_grouped_attention_that_counts_its_positions_itself():
    g = Graph()
    cos, sin = (g.b.const(table) for table in tables().values())
    read = [g.q, g.k, g.v, None, None, *g.lengths(), cos, sin]
    model = g.model(g.contrib("GroupQueryAttention", read, num_heads=HEADS, kv_num_heads=HEADS, do_rotary=1))
    done = attach(model)
    assert (done.positions, done.rotated, done.masked) == ("position_ids", 1, False)
    check(model, POSITIONS)
    check(model, np.arange(N)[None])


def angles(g: Graph, positions: ir.Value) -> ir.Value:
    return g.b.op("Mul", g.b.cast(g.b.op("Unsqueeze", positions, [1, 3]), "float32"), g.b.const(np.ones(4, np.float32)))


def test_angles_that_are_joined_are_of_one_position():
    """However often they are worked out."""
    g = Graph()
    positions = g.input("position_ids", ir.DataType.INT64, ["batch", "n"])
    g.b.op("Cos", g.b.op("Concat", angles(g, positions), angles(g, positions), axis=-1))
    assert attach(g.model(g.softmax())).positions == "position_ids"


# --- what is refused


def test_angles_of_several_positions():
    g = Graph()
    rows = g.input("position_ids", ir.DataType.INT64, [2, "batch", "n"])
    each = [angles(g, g.b.op("Gather", rows, row, axis=0)) for row in (0, 1)]
    g.b.op("Cos", g.b.op("Concat", *each, axis=-1))
    g.b.nodes[-2].name = "joins"
    refused(g.model(g.softmax()), "angles of different positions.*joins.*--positions keep")


def test_angles_that_are_joined_with_themselves_over_and_over():
    g = Graph()
    joined = angles(g, g.input("position_ids", ir.DataType.INT64, ["batch", "n"]))
    for _ in range(40):
        joined = g.b.op("Concat", joined, joined, axis=-1)
    g.b.op("Cos", joined)
    assert attach(g.model(g.softmax())).positions == "position_ids"


def refused(model: ir.Model, match: str, **asked: str) -> None:
    before = len(model.graph)
    with pytest.raises(GraphError, match=match):
        attach(model, **asked)
    assert len(model.graph) == before


def test_a_graph_without_attention():
    g = Graph()
    refused(g.model(g.b.op("Add", g.q, g.v)), "no attention was found")


def test_cross_attention():
    g = Graph(opset=23)
    heads = {"q_num_heads": HEADS, "kv_num_heads": HEADS}
    own = g.standard("Attention", g.q, g.k, g.v, **heads)
    encoded = g.input("encoder_hidden_states", ir.DataType.FLOAT, ["batch", "frames", DIM])
    refused(g.model(g.standard("Attention", own, encoded, encoded, **heads)), "cross-attention")


def test_an_operator_that_takes_no_bias():
    g = Graph()
    refused(g.model(g.contrib("SparseAttention", [g.q, g.k, g.v], num_heads=HEADS)), "takes nothing that is added")


def test_positions_that_are_constants():
    g = Graph()
    g.inputs[0].shape = ir.Shape([1, N, DIM])
    g.rotated(g.b.const(np.arange(N)[None]))
    refused(g.model(g.softmax()), "constants in the file")


def test_tables_of_sines_that_were_worked_out():
    g = Graph()
    g.inputs[0].shape = ir.Shape([1, N, DIM])
    scale = g.b.const(np.random.default_rng(0).standard_normal((1, N, DIM)).astype(np.float32))
    g.q = g.b.op("Mul", g.q, scale)
    refused(g.model(g.softmax()), "positions of its 6 tokens are constants")


def test_a_second_time():
    model = spelled("softmax")
    attach(model)
    refused(model, "has a value 'token_bias' already")


def test_layers_with_caches_of_different_lengths():
    g = Graph(opset=21)
    for number, length in enumerate((8, 12)):
        shape = ["batch", HEADS, length, WIDTH]
        past = g.input(f"past_key_values.{number}.key", ir.DataType.FLOAT, shape)
        keys = g.b.op("Concat", past, g.split(g.k), axis=2)
        logits = g.b.op("MatMul", g.split(g.q), g.b.op("Transpose", keys, perm=[0, 1, 3, 2]))
        g.b.op("Softmax", logits, axis=-1)
    g.inputs[0].shape = ir.Shape([1, N, DIM])
    refused(g.model(g.b.op("Identity", g.q)), "different numbers of keys")
