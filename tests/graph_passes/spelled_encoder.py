"""The encoder of a `Spelling` as an ONNX graph."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper
from spelled_forward import CHANNELS, GRID, HEADS, LINE, Arrays, D, drawn_weights, tokens_of
from spelled_writer import FLOAT_TYPES, Writer, without_some_names
from spellings import Spelling

MANY = int(np.iinfo(np.int64).max)


@dataclass(frozen=True)
class Written:
    """A graph, what it was written from, and inputs for it."""

    model: onnx.ModelProto
    weights: Arrays
    feeds: Arrays


def written(spelling: Spelling) -> Written:
    """The graph of a spelling."""
    float_type = np.float32 if spelling.half == "no" else np.float16
    weights = {name: w.astype(float_type).astype(np.float64) for name, w in drawn_weights(spelling).items()}
    w = Writer(spelling.names, spelling.opset, float_type)
    encoder = _Encoder(spelling, weights, w)
    feeds = _feeds(spelling, np.float16 if spelling.half == "all" else np.float32)
    outputs = encoder.write()
    inputs = []
    for name, array in feeds.items():
        batch = [spelling.batch] if name != "position_ids" or spelling.rows > 1 else [1]
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        inputs.append(helper.make_tensor_value_info(name, kind, batch + list(array.shape[1:])))
    given = [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()]
    graph = helper.make_graph(w.nodes, "main", inputs, given, w.initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", spelling.opset)], ir_version=10)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    if spelling.annotated:
        model = inferred
    else:
        del model.graph.output[:]
        model.graph.output.extend(inferred.graph.output)
    if spelling.names.startswith("partial"):
        without_some_names(model, spelling.cut, spelling.gap)
    return Written(model, weights, feeds)


def _feeds(spelling: Spelling, float_type: type) -> Arrays:
    random = np.random.default_rng(spelling.seed + 100)
    rows, n = spelling.rows, tokens_of(spelling) + spelling.learned
    shape = {"image": (CHANNELS, GRID[0] * 2, GRID[1] * 2), "frames": (CHANNELS, LINE * 2), "features": (LINE, 5)}
    feeds = {"data": random.standard_normal((rows, *shape[spelling.stem])).astype(float_type)}
    if spelling.position == "input" or spelling.extra == "positions":
        feeds["position_ids"] = np.stack([random.permutation(n) for _ in range(rows)])
    if spelling.mask == "attention_mask" or spelling.extra == "mask":
        feeds["attention_mask"] = np.ones((rows, n), np.int64)
    if spelling.mask == "lengths" or spelling.extra == "lengths":
        feeds["lengths"] = np.full(rows, n, np.int64)
    return feeds


class _Encoder:
    def __init__(self, spelling: Spelling, weights: Arrays, writer: Writer) -> None:
        self.s, self.arrays, self.w = spelling, dict(weights), writer
        for i in range(spelling.layers):
            for end in ("", ".bias"):
                self.arrays[f"{i}.qkv{end}"] = np.concatenate([weights[f"{i}.{x}{end}"] for x in "qkv"], -1)
        self.n = tokens_of(spelling) + spelling.learned
        # For a reshape that leaves no axis at its place.
        self.anew = "constant" if spelling.shapes == "zeros" else spelling.shapes
        self.float = FLOAT_TYPES[writer.float]

    def write(self) -> dict[str, int]:
        """All nodes; the outputs by name, with their types."""
        s, w, extra = self.s, self.w, {}
        with w.module("tower"):
            bias = self.bias()
            x = self.embedded()
            x = w.op("Transpose", x, perm=[1, 0, 2]) if s.layout == "NBD" else x
            for i in range(s.layers):
                with w.module(f"layers.{i}"):
                    x = self.layer(i, x, bias)
                if i == 0 and s.extra == "features":
                    extra["features"] = w.op(
                        "Transpose" if s.layout == "NBD" else "Identity", x, out="features",
                        **({"perm": [1, 0, 2]} if s.layout == "NBD" else {}),
                    )  # fmt: skip
            if s.final_norm:
                with w.module("norm"):
                    x = self.norm("norm", x)
            x = w.op("Transpose", x, perm=[1, 0, 2]) if s.layout == "NBD" else x
        outputs = self.extras(x)
        if s.drop != "none":
            start, end = (0, -s.learned) if s.appended else (s.learned, MANY)
            x = w.slice(x, start, end, 1)
        if s.projector:
            with w.module("projector"):
                rows = [-1, self.n - (s.learned if s.drop != "none" else 0)]
                x = self.linear("fc1", x, rows)
                x = w.op("Add", x, w.mean(x, 0, 1)) if s.mixed else x
                x = self.linear("fc2", self.gelu(x), rows)
        if s.half == "inside":
            w.cast(x, TensorProto.FLOAT, out="tokens")
        else:
            w.op("Identity", x, out="tokens")
        outputs = {"tokens": TensorProto.FLOAT if s.half == "inside" else self.float, **outputs}
        return outputs | ({"features": self.float} if extra else {})

    def extras(self, x: str) -> dict[str, int]:
        s, w = self.s, self.w
        if s.extra == "mean":
            w.mean(x, 1, 0, out="pooled")
            return {"pooled": self.float}
        if s.extra == "cls":
            w.op("Gather", x, w.const(0), axis=1, out="pooled")
            return {"pooled": self.float}
        if s.extra == "lengths":
            w.op("Div", w.op("Mul", "lengths", w.const([2])), w.const([2]), out="encoded_lengths")
            return {"encoded_lengths": TensorProto.INT64}
        if s.extra == "mask":
            w.cast(w.op("Greater", "attention_mask", w.const(0)), TensorProto.INT32, out="token_mask")
            return {"token_mask": TensorProto.INT32}
        if s.extra == "count":
            w.op("Add", w.size(x, 1), w.const([0]), out="count")
            return {"count": TensorProto.INT64}
        if s.extra == "positions":
            w.op("Add", "position_ids", w.const(1), out="positions")
            return {"positions": TensorProto.INT64}
        return {}

    def embedded(self) -> str:
        s, w = self.s, self.w
        data = w.cast("data", TensorProto.FLOAT16) if s.half == "inside" else "data"
        if s.stem == "features":
            x = w.op("Add", w.op("MatMul", data, self.weight("stem")), self.weight("stem.bias"))
        else:
            with w.module("conv"):
                x = w.op(
                    "Conv", data, self.weight("stem"), self.weight("stem.bias"), strides=[2] * (1 + (s.stem == "image"))
                )
            if s.stem == "image":
                how = "zeros" if s.shapes == "constant" else s.shapes
                x = w.reshape(x, [(x, 0, 0), (x, 1, D), -1], how)
            x = w.op("Transpose", x, perm=[0, 2, 1])
        own = self.own(data, x)
        if own:
            x = w.op("Concat", *([x, *own] if s.appended else [*own, x]), axis=1)
        if s.position == "none":
            return x
        if s.position == "table":
            return w.op("Add", x, self.weight("table"))
        table = w.op("Squeeze", self.weight("table"), w.const([0]))
        ids = w.const(np.arange(self.n)[None]) if s.position == "gathered" else "position_ids"
        return w.op("Add", x, w.op("Gather", table, ids, axis=0))

    def own(self, data: str, x: str) -> list[str]:
        """Tokens of the model's own [B, 1, D], by the way in which they come to the batch."""
        s, w = self.s, self.w
        tokens = [self.weight(f"own{i}") for i in range(s.learned)]
        if not tokens:
            return []
        if s.prefix in ("parameter", "two") and s.batch == 1:
            return tokens
        batch = w.size(data, 0)
        if s.prefix == "full":
            zeros = w.op("ConstantOfShape", w.op("Concat", batch, w.const([1, D]), axis=0), value=self.zero())
            return [w.op("Add", token, zeros) for token in tokens]
        if s.prefix == "tile":
            return [w.op("Tile", token, w.op("Concat", batch, w.const([1, 1]), axis=0)) for token in tokens]
        if s.prefix == "parameter":
            return [w.op("Expand", token, w.op("Concat", batch, w.const([1, D]), axis=0)) for token in tokens]
        wanted = w.op("Concat", batch, w.const([-1]), w.const([-1]), axis=0)
        one = helper.make_tensor("one", TensorProto.INT64, [1], [1])
        ones = w.op("ConstantOfShape", w.const([3]), value=one)
        minus = w.op("Mul", ones, w.const(-1))
        sizes = w.op("Where", w.op("Equal", wanted, minus), ones, wanted)
        return [w.op("Expand", token, sizes) for token in tokens]

    def zero(self) -> onnx.TensorProto:
        return helper.make_tensor("zero", self.float, [1], [0.0])

    def bias(self) -> str:
        """[B, 1, 1, n]: what the mask adds to the logits; empty without one."""
        s, w = self.s, self.w
        if s.mask == "attention_mask":
            mask = w.cast(w.op("Unsqueeze", "attention_mask", w.const([1, 2])), self.float)
            return w.op("Mul", w.op("Sub", w.scalar(1), mask), w.scalar(-1e4))
        if s.mask == "lengths":
            inside = w.op("Less", w.const(np.arange(self.n)[None]), w.op("Unsqueeze", "lengths", w.const([1])))
            inside = w.op("Unsqueeze", inside, w.const([1, 2]))
            return w.op("Where", inside, w.scalar(0), w.scalar(-1e4))
        return ""

    def layer(self, i: int, x: str, bias: str) -> str:
        w, post = self.w, self.s.post_norm
        with w.module("attention"):
            y = self.attend(i, x if post else self.norm(f"{i}.norm1", x), bias)
        x = w.op("Add", x, y)
        x = self.norm(f"{i}.norm1", x) if post else x
        y = x if post else self.norm(f"{i}.norm2", x)
        with w.module("mlp"):
            y = self.linear(f"{i}.fc2", self.gelu(self.linear(f"{i}.fc1", y)))
        x = w.op("Add", x, y)
        return self.norm(f"{i}.norm2", x) if post else x

    def attend(self, i: int, x: str, bias: str) -> str:
        s, w = self.s, self.w
        if s.attention.startswith("operator") and bias:
            # The operator of ONNX Runtime takes no mask with one row for all queries.
            bias = w.op("Add", bias, w.const(np.zeros((self.n, 1)), w.float))
        optional = [bias] if bias else []
        if s.attention == "operator":
            mixed = w.op("Attention", *self.projected(i, x), *optional, q_num_heads=HEADS, kv_num_heads=HEADS)
            return self.linear(f"{i}.o", mixed)
        q, k, v = self.by_head(i, x)
        if s.attention == "operator of heads":
            mixed = w.op("Attention", q, k, v, *optional)
        else:
            mixed = self.mixed(q, k, v, bias)
        if s.attention == "joined":
            mixed = w.reshape(mixed, [-1, HEADS, (x, 1, self.n), D // HEADS], self.anew)
        mixed = w.op("Transpose", mixed, perm=[1, 0, 2] if s.layout == "NBD" else [0, 2, 1, 3])
        # What is constant in a graph of a dynamic batch is all but that axis.
        sizes = [(x, 0, self.n), -1, D] if s.layout == "NBD" else [(x, 0, -1), (x, 1, self.n), D]
        return self.linear(f"{i}.o", w.reshape(mixed, sizes, s.shapes))

    def projected(self, i: int, x: str) -> list[str]:
        """Queries, keys and values, each as wide as the tokens."""
        if self.s.packed == "no":
            return [self.linear(f"{i}.{name}", x) for name in ("q", "k", "v")]
        packed = self.linear(f"{i}.qkv", x)
        return [self.w.slice(packed, j * D, (j + 1) * D, 2) for j in range(3)]

    def by_head(self, i: int, x: str) -> tuple[str, str, str]:
        """Queries, keys (transposed but for an operator) and values, [B, H, n, d] or [B * H, n, d]."""
        s, w, d = self.s, self.w, D // HEADS
        operator = s.attention == "operator of heads"
        if s.packed == "gather":
            packed = w.reshape(self.linear(f"{i}.qkv", x), [(x, 0, -1), (x, 1, self.n), 3, HEADS, d], s.shapes)
            packed = w.op("Transpose", packed, perm=[2, 0, 3, 1, 4])
            q, k, v = (w.op("Gather", packed, w.const(j), axis=0) for j in range(3))
        elif s.layout == "NBD":
            q, k, v = (w.op("Transpose", self.heads(each), perm=[1, 0, 2]) for each in self.projected(i, x))
            return q, w.op("Transpose", k, perm=[0, 2, 1]), v
        else:
            q, k, v = map(self.heads, self.projected(i, x))
            if s.attention == "softmax" and s.keys == "one transpose":
                q, v = (w.op("Transpose", each, perm=[0, 2, 1, 3]) for each in (q, v))
                return q, w.op("Transpose", k, perm=[0, 2, 3, 1]), v
            q, k, v = (w.op("Transpose", each, perm=[0, 2, 1, 3]) for each in (q, k, v))
        if s.attention == "joined":
            q, k, v = (w.reshape(each, [-1, (x, 1, self.n), d], self.anew) for each in (q, k, v))
            return q, w.op("Transpose", k, perm=[0, 2, 1]), v
        return q, k if operator else w.op("Transpose", k, perm=[0, 1, 3, 2]), v

    def mixed(self, q: str, turned: str, v: str, bias: str) -> str:
        """A softmax between two products."""
        s, w, d = self.s, self.w, D // HEADS
        if s.scale == "query":
            q = w.op("Mul", q, w.scalar(d**-0.5))
        elif s.scale == "both":
            q, turned = w.op("Mul", q, w.scalar(d**-0.25)), w.op("Mul", turned, w.scalar(d**-0.25))
        logits = w.op("MatMul", q, turned)
        if s.scale == "logits":
            logits = w.op("Div", logits, w.scalar(d**0.5))
        if bias:
            logits = w.op("Add", logits, bias)
        return w.op("MatMul", w.op("Softmax", logits, axis=-1), v)

    def heads(self, x: str) -> str:
        d = D // HEADS
        if self.s.layout == "NBD":
            return self.w.reshape(x, [(x, 0, self.n), -1, d], self.s.shapes)
        return self.w.reshape(x, [(x, 0, -1), (x, 1, self.n), HEADS, d], self.s.shapes)

    def weight(self, name: str) -> str:
        return self.w.weight(name, self.arrays[name])

    def linear(self, name: str, x: str, rows: list[int] | None = None) -> str:
        w, weight, bias = self.w, self.weight(name), self.weight(f"{name}.bias")
        if self.s.linear == "gemm":
            wide, out = self.arrays[name].shape
            flat = w.op("Gemm", w.op("Reshape", x, w.const([-1, wide])), weight, bias)
            first, second = rows or ((-1, self.n) if self.s.layout == "BND" else (self.n, -1))
            how = "arithmetic" if self.s.shapes == "arithmetic" else "constant"
            return w.reshape(flat, [(x, 0, first), (x, 1, second), out], how)
        product = w.op("MatMul", x, weight)
        return w.op("Add", *((bias, product) if self.s.linear == "bias first" else (product, bias)))

    def norm(self, name: str, x: str) -> str:
        w, scale, bias = self.w, self.weight(f"{name}.scale"), self.weight(f"{name}.bias")
        if self.s.norm == "op":
            return w.op("LayerNormalization", x, scale, bias, axis=-1, epsilon=1e-5)
        centred = w.op("Sub", x, w.mean(x, -1, 1))
        spread = w.mean(w.op("Pow", centred, w.scalar(2)), -1, 1)
        normed = w.op("Div", centred, w.op("Sqrt", w.op("Add", spread, w.scalar(1e-5))))
        return w.op("Add", w.op("Mul", normed, scale), bias)

    def gelu(self, x: str) -> str:
        w, kind = self.w, self.s.gelu
        if kind == "relu":
            return w.op("Relu", x)
        if kind == "operator":
            return w.op("Gelu", x)
        if kind == "sigmoid":
            return w.op("Mul", x, w.op("Sigmoid", w.op("Mul", x, w.scalar(1.702))))
        gate = w.op("Add", w.op("Erf", w.op("Div", x, w.scalar(2**0.5))), w.scalar(1))
        return w.op("Mul", w.op("Mul", x, gate), w.scalar(0.5))
