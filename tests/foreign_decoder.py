"""Language models of one layer as others export them, written node by node, and the same in numpy."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from tokexport.graph_passes.ir_tools.builder import Builder

N, HEADS, WIDTH = 6, 2, 16
DIM = HEADS * WIDTH
CONTRIB = "com.microsoft"
SIZES = np.array([[1, 4, 1, 7, 2, 1]], np.float32)
# Where the tokens stood before others were dropped.
POSITIONS = np.array([[0, 1, 5, 6, 9, 12]])
FREQUENCIES = 10000.0 ** (-np.arange(WIDTH // 2) / (WIDTH // 2))


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: (rng.standard_normal((DIM, DIM)) / DIM**0.5).astype(np.float32) for name in ("q", "k", "v")}


def tables(rows: int = 32) -> dict[str, np.ndarray]:
    angles = np.arange(rows)[:, None] * FREQUENCIES
    return {"cos": np.cos(angles).astype(np.float32), "sin": np.sin(angles).astype(np.float32)}


def expected(x: np.ndarray, bias: np.ndarray, positions: np.ndarray | None = None) -> np.ndarray:
    """Causal attention in numpy, with the bias on every key."""
    heads = {name: (x @ w).reshape(1, N, HEADS, WIDTH).transpose(0, 2, 1, 3) for name, w in weights().items()}
    if positions is not None:
        angles = positions[:, None, :, None] * FREQUENCIES
        for name in ("q", "k"):
            a, b = np.split(heads[name], 2, -1)
            heads[name] = np.concatenate(
                [a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles)], -1
            )
    logits = heads["q"] @ heads["k"].swapaxes(-1, -2) / WIDTH**0.5 + bias[:, None, None]
    logits = np.where(np.tril(np.ones((N, N), bool)), logits, -np.inf)
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    made = shares / shares.sum(-1, keepdims=True) @ heads["v"]
    return made.transpose(0, 2, 1, 3).reshape(1, N, DIM)


class Graph:
    """A language model of one layer, [B, n, D] to [B, n, D], written node by node."""

    def __init__(self, opset: int = 21) -> None:
        self.b = Builder("g.")
        x = ir.Value(name="inputs_embeds", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["batch", "n", DIM]))
        self.inputs, self.opset, self.held = [x], opset, {name: self.b.const(w) for name, w in weights().items()}
        self.q, self.k, self.v = (self.b.op("MatMul", x, w) for w in self.held.values())

    def input(self, name: str, dtype: ir.DataType, shape: list[int | str]) -> ir.Value:
        self.inputs.append(ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape)))
        return self.inputs[-1]

    def contrib(self, kind: str, inputs: list[ir.Value | None], **attributes: object) -> ir.Value:
        node = ir.node(kind, inputs, attributes, domain=CONTRIB, name="attention")
        node.outputs[0].name = "attended"
        self.b.nodes.append(node)
        return node.outputs[0]

    def standard(self, kind: str, *inputs: ir.Value, **attributes: object) -> ir.Value:
        out = self.b.op(kind, *inputs, **attributes)
        self.b.nodes[-1].name = "attention"
        return out

    def lengths(self) -> list[ir.Value]:
        seqlens = self.input("seqlens_k", ir.DataType.INT32, ["batch"])
        return [seqlens, self.input("total_sequence_length", ir.DataType.INT32, [])]

    def split(self, value: ir.Value) -> ir.Value:
        return self.b.op("Transpose", self.b.op("Reshape", value, [0, 0, HEADS, WIDTH]), perm=[0, 2, 1, 3])

    def rotated(self, positions: ir.Value) -> None:
        """Rotary embeddings in standard operators, of positions [B, n]."""
        b = self.b
        angles = b.op("Mul", b.cast(b.op("Unsqueeze", positions, [1, 3]), "float32"), b.const(FREQUENCIES.astype("f")))
        both = b.op("Concat", angles, angles, axis=-1)
        cos, sin = b.op("Cos", both), b.op("Sin", both)
        for name in ("q", "k"):
            x = self.split(getattr(self, name))
            low, high = b.ops("Split", x, [WIDTH // 2, WIDTH // 2], axis=-1, n=2)
            turned = b.op("Mul", b.op("Concat", b.op("Neg", high), low, axis=-1), sin)
            x = b.op("Add", b.op("Mul", x, cos), turned)
            setattr(self, name, b.op("Reshape", b.op("Transpose", x, perm=[0, 2, 1, 3]), [0, 0, DIM]))

    def softmax(self) -> ir.Value:
        """Attention as a Softmax of a masked product."""
        b, q, k, v = self.b, *map(self.split, (self.q, self.k, self.v))
        logits = b.op("Mul", b.op("MatMul", q, b.op("Transpose", k, perm=[0, 1, 3, 2])), WIDTH**-0.5)
        count = b.op("Range", 0, b.op("Squeeze", b.op("Shape", self.inputs[0], start=1, end=2)), 1)
        seen = b.op("LessOrEqual", count, b.op("Unsqueeze", count, [1]))
        shares = b.op("Softmax", b.op("Where", seen, logits, float("-inf")), axis=-1)
        b.nodes[-1].name = "attention"
        return b.op("Reshape", b.op("Transpose", b.op("MatMul", shares, v), perm=[0, 2, 1, 3]), [0, 0, DIM])

    def model(self, out: ir.Value) -> ir.Model:
        out.type, out.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["batch", "n", DIM])
        imports = {"": self.opset, CONTRIB: 1}
        return ir.Model(
            ir.Graph(self.inputs, [out], nodes=self.b.nodes, opset_imports=imports, name="g"), ir_version=10
        )


def spelled(kind: str) -> ir.Model:
    g = Graph(opset=23 if kind == "operator" else 21)
    if kind == "softmax":
        return g.model(g.softmax())
    if kind == "operator":
        return g.model(g.standard("Attention", g.q, g.k, g.v, q_num_heads=HEADS, kv_num_heads=HEADS, is_causal=1))
    if kind == "multi-head":
        return g.model(g.contrib("MultiHeadAttention", [g.q, g.k, g.v], num_heads=HEADS, unidirectional=1))
    if kind == "grouped":
        read = [g.q, g.k, g.v, None, None, *g.lengths()]
        return g.model(g.contrib("GroupQueryAttention", read, num_heads=HEADS, kv_num_heads=HEADS))
    fused = g.b.const(np.concatenate(list(weights().values()), 1))
    zeros = g.b.const(np.zeros(3 * DIM, np.float32))
    return g.model(g.contrib("Attention", [g.inputs[0], fused, zeros], num_heads=HEADS, unidirectional=1))
