"""One attention layer in many spellings: right, and with the defects that `tokexport debug` has to find."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from click.testing import CliRunner, Result
from tokexport.exporter.cli import main

FLOAT = ir.DataType.FLOAT
# As many tokens as heads: a wrong order of the axes has the right shape.
TOKENS, HEADS, WIDTH = 4, 4, 2
CHANNELS = HEADS * WIDTH
SPLIT = (0, 2, 1, 3)


def typed(*words: object, code: int = 0) -> Result:
    """`tokexport debug` with these words."""
    done = CliRunner().invoke(main, ["debug", *map(str, words), "-q"], env={"COLUMNS": "80"})
    assert done.exit_code == code, done.output
    return done


def found(*words: object, code: int = 1) -> dict[str, Any]:
    """What it finds of one pair of graphs."""
    (graph,) = json.loads(typed(*words, "--json", code=code).stdout)["graphs"]
    return graph


class Graph:
    """Nodes by hand, with inferred shapes at the end."""

    def __init__(self, seed: int = 0) -> None:
        self.nodes: list[ir.Node] = []
        self.weights: list[ir.Value] = []
        self.rng = np.random.default_rng(seed)

    def weight(self, name: str, array: object) -> ir.Value:
        data = np.asarray(array)
        data = data.astype(np.float32) if data.dtype == np.float64 else data
        value = ir.Value(name=name, const_value=ir.tensor(data, name=name))
        value.shape, value.type = ir.Shape(data.shape), ir.TensorType(ir.DataType.from_numpy(data.dtype))
        self.weights.append(value)
        return value

    def op(self, op_type: str, *inputs: ir.Value | None, name: str, **attributes: object) -> ir.Value:
        node = ir.node(op_type, list(inputs), attributes, name=f"/{name}")
        node.outputs[0].name = name
        self.nodes.append(node)
        return node.outputs[0]

    def matrix(self, x: ir.Value, name: str, *, gain: float = 1.0) -> ir.Value:
        weight = self.rng.standard_normal((CHANNELS, CHANNELS)) * gain / np.sqrt(CHANNELS)
        return self.op("MatMul", x, self.weight(f"{name}.weight", weight), name=name)

    def model(self, inputs: list[ir.Value], outputs: list[ir.Value]) -> ir.Model:
        from onnx_ir.passes.common import ShapeInferencePass

        graph = ir.Graph(
            inputs, outputs, nodes=self.nodes, initializers=self.weights, opset_imports={"": 18}, name="layer"
        )
        model = ir.Model(graph, ir_version=10)
        ShapeInferencePass(strict_mode=True)(model)
        return model


def layer(
    *,
    split: tuple[int, ...] = SPLIT,
    epsilon: float = 1e-12,
    masked: bool = True,
    length: int = TOKENS - 1,
    gain: float = 1.0,
    seed: int = 0,
) -> ir.Model:
    """x [1, 4, 8] -> y [1, 4, 8]: norm, attention with a causal mask over the first `length` keys, residual.

    Args:
        split: the order of the axes of query, token and head apart.
        epsilon: of the norm.
        masked: whether the causal mask is added.
        length: keys that hold something.
        gain: of the products that are divided by it again: at 1e5 they overflow float16.
        seed: of the weights.
    """
    g = Graph(seed)
    x = ir.val("x", FLOAT, (1, TOKENS, CHANNELS))
    small = g.op("Mul", x, g.weight("shrink", 1e-3), name="small")
    ones = g.weight("norm.weight", np.ones(CHANNELS))
    normal = g.op("LayerNormalization", small, ones, name="normal", epsilon=epsilon, axis=-1)
    heads = g.weight("heads", np.array([1, TOKENS, HEADS, WIDTH]))
    parts = {}
    for name in "qkv":
        apart = g.op("Reshape", g.matrix(normal, name), heads, name=f"{name}_heads")
        order = list(split if name == "q" else (0, 2, 3, 1) if name == "k" else SPLIT)
        parts[name] = g.op("Transpose", apart, name=f"{name}_turned", perm=order)
    scores = g.op("MatMul", parts["q"], parts["k"], name="scores")
    if masked:
        causal = np.triu(np.full((TOKENS, TOKENS), -1e4), 1)
        scores = g.op("Add", scores, g.weight("causal", causal), name="causal_scores")
    there = g.op("Less", g.weight("places", np.arange(TOKENS)), g.weight("kv_length", np.array(length)), name="there")
    filled = g.op("Where", there, scores, g.weight("never", -1e4), name="filled")
    weights = g.op("Softmax", filled, name="weights", axis=-1)
    mixed = g.op("Transpose", g.op("MatMul", weights, parts["v"], name="mixed"), name="joined", perm=[0, 2, 1, 3])
    flat = g.op("Reshape", mixed, g.weight("flat", np.array([1, TOKENS, CHANNELS])), name="tokens")
    up = g.matrix(flat, "up", gain=gain)
    down = g.op("Mul", up, g.weight("down.scale", 1 / gain), name="down")
    out = g.matrix(down, "out")
    return g.model([x], [g.op("Add", out, x, name="y")])


def renamed(model: ir.Model) -> ir.Model:
    """The same graph with other names for everything but its inputs and outputs."""
    kept = {*model.graph.inputs, *model.graph.outputs}
    values = [*(value for node in model.graph for value in node.outputs), *model.graph.initializers.values()]
    for i, value in enumerate(values):
        if value not in kept:
            value.name = f"other_{i}"
    for i, node in enumerate(model.graph):
        node.name = f"node_{i}"
    return model


def saved(model: ir.Model, path: Path) -> Path:
    ir.save(model, path)
    return path
