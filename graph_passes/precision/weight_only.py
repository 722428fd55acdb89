"""The weights of a language graph in 8 or 4 bits, while all that is computed from them stays in its precision.

1. A product with a constant matrix [K, N], K a multiple of `blocks.BLOCK`, is quantised: MatMul, and Gemm, which
   becomes a product and an Add. Every other constant stays as it is.
2. In the form ``MatMulNBits`` a product is ONNX Runtime's operator of that name. The table of words that `input_ids`
   reads is quantised too (GatherBlockQuantized): where the output layer is tied to it, both read the same bytes.
3. In the form ``DequantizeLinear`` a product reads a standard DequantizeLinear, as TensorRT takes it: blocks of int4,
   and int8 with a scale for each column, because its parser takes blocks of int4 alone. The table of words stays as it
   is: no standard operator reads rows of it without expanding all of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
import onnx_ir as ir

from ...errors import GraphError
from ..ir_tools.contrib_shapes import DOMAIN
from ..ir_tools.walk import unique_name
from .blocks import BLOCK, Blocks, Weights, by_column, in_blocks

WeightForm = Literal["MatMulNBits", "DequantizeLinear"]
# Of the standard domain: DequantizeLinear takes blocks and int4 from here on.
OPSET = 21
_TABLE_INDEX = "input_ids"
# The products of ONNX Runtime are then of int8, which a CPU computes several times as fast.
_ACCURACY_LEVEL = 4
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
# What was made of a constant, in the order in which an operator reads it.
_Made = tuple[ir.Tensor, ir.Tensor]


class WeightOnly:
    """Quantises graphs that share weights: what several read is quantised once, and is one tensor in all of them.

    Args:
        weights: int8 or int4.
        form: see the module docstring.

    Attributes:
        products: how many were quantised, in all graphs.
        before: bytes of the different constants that were quantised.
        after: bytes of what they became.
    """

    def __init__(self, weights: Weights, form: WeightForm) -> None:
        self.weights, self.form = weights, form
        self.products = self.before = self.after = 0
        self._made: dict[tuple[object, ...], _Made] = {}

    def quantise(self, model: ir.Model, *, needs_products: bool = True) -> None:
        """Quantise a graph, in place; its inputs and outputs stay as they are.

        Args:
            model: a graph in float32 or float16, at opset 18 or above; for the form ``DequantizeLinear`` at `OPSET`.
            needs_products: whether a graph without products with constant matrices is refused.

        Raises:
            GraphError: there is no such product.
            MissingError: see `blocks.in_blocks`.
        """
        before, graph = self.products, model.graph
        names = {*graph.initializers, *(value.name or "" for node in graph for value in node.outputs)}
        for node in list(graph):
            if node.domain in ("", "ai.onnx"):
                self._node(node, names)
        for name, value in list(graph.initializers.items()):
            if not value.uses() and not value.is_graph_output():
                del graph.initializers[name]
        if self.products == before and needs_products:
            raise GraphError(
                f"no product reads a constant matrix of a multiple of {BLOCK} rows, so there is nothing to write in "
                f"{self.weights}",
                where=f"graph {graph.name}",
                fix="Leave --llm-weights out.",
            )

    def _node(self, node: ir.Node, names: set[str]) -> None:
        if node.op_type == "MatMul" and _matrix(node.inputs[1], 0):
            self._product(node, names, turned=False)
        elif node.op_type == "Gemm" and _plain(node):
            turned = bool(node.attributes.get_int("transB", 0))
            if _matrix(node.inputs[1], int(turned)):
                self._product(node, names, turned=turned)
        elif node.op_type == "Gather" and self.form == "MatMulNBits" and _is_table(node):
            self._rows(node, names)

    def _product(self, node: ir.Node, names: set[str], *, turned: bool) -> None:
        """Replace a product with a matrix [K, N], or [N, K] where it is `turned`."""
        source, matrix = node.inputs[:2]
        assert source is not None and matrix is not None
        made = self._tensors(matrix, turned=turned)
        constants = _constants(node, names, matrix.name or "weight", made)
        if self.form == "MatMulNBits":
            columns, blocks, _ = made[0].shape.numpy()
            sizes = {"K": blocks * BLOCK, "N": columns, "bits": self._bits, "block_size": BLOCK}
            attributes = {**sizes, "accuracy_level": _ACCURACY_LEVEL}
            product = _made(node, "MatMulNBits", [source, *constants], attributes, DOMAIN)
            new = [product]
        else:
            attributes = {"axis": 0, "block_size": BLOCK} if self.weights == "int4" else {"axis": 1}
            dequantized = _made(node, "DequantizeLinear", constants, attributes)
            dequantized.outputs[0].shape = ir.Shape(made[0].shape.numpy())
            dequantized.outputs[0].name = unique_name(f"{matrix.name}.dequantized", names)
            product = _made(node, "MatMul", [source, dequantized.outputs[0]], {})
            new = [dequantized, product]
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            new.append(_made(node, "Add", [product.outputs[0], node.inputs[2]], {}))
            product.outputs[0].name = unique_name(f"{node.outputs[0].name}.product", names)
        _replace(node, new)
        self.products += 1

    def _rows(self, node: ir.Node, names: set[str]) -> None:
        """Replace the reading of rows of a table [V, D]."""
        table, index = node.inputs[:2]
        assert table is not None and index is not None
        packed, scales = self._tensors(table, turned=True)
        rows = ir.Tensor(packed.numpy().reshape(len(packed.numpy()), -1))
        values = _constants(node, names, f"{table.name}.rows", (rows, scales))
        attributes = {"gather_axis": 0, "quantize_axis": 1, "block_size": BLOCK, "bits": self._bits}
        _replace(node, [_made(node, "GatherBlockQuantized", [values[0], index, values[1]], attributes, DOMAIN)])

    @property
    def _bits(self) -> int:
        return int(self.weights.removeprefix("int"))

    def _tensors(self, matrix: ir.Value, *, turned: bool) -> _Made:
        """What the operators of the form read of a matrix [K, N], or [N, K] where it is `turned`."""
        assert matrix.const_value is not None
        array = matrix.const_value.numpy()
        content = hashlib.sha256(np.ascontiguousarray(array).data.cast("B")).digest()
        key = (content, array.shape, array.dtype, turned)
        if key not in self._made:
            self._made[key] = self._quantised(array.T if turned else array)
            self.before += array.nbytes
            self.after += sum(tensor.nbytes for tensor in self._made[key])
        return self._made[key]

    def _quantised(self, array: np.ndarray) -> _Made:
        if self.form == "MatMulNBits":
            blocks = in_blocks(array, self.weights)
            return ir.Tensor(blocks.packed), ir.Tensor(blocks.scales)
        if self.weights == "int8":
            numbers, scales = by_column(array)
            return ir.Tensor(numbers), ir.Tensor(scales)
        return _standard(in_blocks(array, self.weights))


def _standard(blocks: Blocks) -> _Made:
    """Numbers int4 [K, N] and scales [K / BLOCK, N]."""
    import ml_dtypes

    numbers = np.ascontiguousarray(blocks.signed()).astype(ml_dtypes.int4)
    return ir.Tensor(numbers, dtype=ir.DataType.INT4), ir.Tensor(np.ascontiguousarray(blocks.scales.T))


def _matrix(value: ir.Value | None, rows: int) -> bool:
    """Whether a value is a constant matrix that has a multiple of `BLOCK` rows, which are its axis `rows`."""
    if value is None or value.const_value is None or value.is_graph_input() or value.dtype not in _FLOATS:
        return False
    shape = value.const_value.shape
    return len(shape) == 2 and shape.numpy()[rows] % BLOCK == 0


def _plain(node: ir.Node) -> bool:
    """Whether a Gemm is a product and a sum: nothing is scaled, and its first operand is not turned."""
    found = node.attributes
    return not found.get_int("transA", 0) and found.get_float("alpha", 1.0) == found.get_float("beta", 1.0) == 1.0


def _is_table(node: ir.Node) -> bool:
    index = node.inputs[1]
    by_row = node.attributes.get_int("axis", 0) == 0
    return by_row and index is not None and index.name == _TABLE_INDEX and _matrix(node.inputs[0], 1)


def _constants(node: ir.Node, names: set[str], name: str, made: _Made) -> list[ir.Value]:
    """Initializers of the node's graph."""
    graph, values = node.graph, []
    assert isinstance(graph, ir.Graph)
    for kind, tensor in zip(("quantised", "scales"), made, strict=True):
        value = ir.Value(
            name=unique_name(f"{name}.{kind}", names),
            type=ir.TensorType(tensor.dtype),
            shape=ir.Shape(tensor.shape.numpy()),
            const_value=tensor,
        )
        graph.register_initializer(value)
        values.append(value)
    return values


def _made(
    node: ir.Node, kind: str, inputs: Sequence[ir.Value | None], attributes: dict[str, int], domain: str = ""
) -> ir.Node:
    """A node in the place of another, with an output of its type and shape."""
    new = ir.Node(
        domain,
        kind,
        inputs,
        [ir.AttrInt64(name, int(number)) for name, number in attributes.items()],
        name=f"{node.name}/{kind}" if node.name else None,
        metadata_props=dict(node.metadata_props),
    )
    (output,) = node.outputs
    new.outputs[0].type, new.outputs[0].shape = output.type, output.shape
    return new


def _replace(node: ir.Node, new: list[ir.Node]) -> None:
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    if any(one.domain == DOMAIN for one in new):
        graph.opset_imports.setdefault(DOMAIN, 1)
    ir.convenience.replace_nodes_and_values(graph, node, [node], new, node.outputs, new[-1].outputs)
