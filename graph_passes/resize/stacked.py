"""A graph exported for B = 1, rewritten to take several inputs at once, stacked along the first axis.

One invariant is followed through the graph by one rule per operator family: a value that depends on an input holds, for
each of the B inputs in turn, what the graph for one would have held, one block behind the other on axis 0. What no rule
proves is refused with its node.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NoReturn

import numpy as np
import onnx_ir as ir

from ...errors import GraphError
from ..ir_tools.contrib_shapes import DOMAIN
from ..ir_tools.infer_shapes import infer_missing_shapes
from ..ir_tools.walk import array, integers, unique_name

_ARITHMETIC = frozenset({"Abs", "Add", "Div", "Max", "Min", "Mod", "Mul", "Neg", "Pow", "Reciprocal", "Sqrt", "Sub"})
_LOGIC = frozenset({"And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "Or", "Where", "Xor"})
_CURVES = frozenset({"Cos", "Erf", "Exp", "Gelu", "Log", "Relu", "Sigmoid", "Sin", "Softplus", "Tanh"})
_POINTWISE = _ARITHMETIC | _LOGIC | _CURVES | {"Cast", "Clip", "Identity"}
_ALONG_ONE_AXIS = {"Softmax": -1, "LogSoftmax": -1, "LayerNormalization": -1, "Split": 0, "GatherElements": 0}
_REDUCTIONS = frozenset({"ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "ReduceSumSquare", "ReduceL2"})


def stacked(model: ir.Model, batch: int) -> ir.Model:
    """A copy of `model` whose inputs and outputs have `batch` times as many entries on axis 0.

    Weights are shared with `model`, which stays as it is.

    Args:
        model: a graph with static shapes; axis 0 of every input and output is its batch, whatever its size.
        batch: how many inputs it takes at once.

    Raises:
        GraphError: an operator may let one input see another, or no rule knows it.
    """
    copy = model.clone()
    if batch != 1:
        _Stacking(copy, batch).run()
    return copy


class _Stacking:
    """Rewrites one model in place."""

    def __init__(self, model: ir.Model, batch: int) -> None:
        infer_missing_shapes(model)
        self.model, self.batch = model, batch
        self.values: set[ir.Value] = set(model.graph.inputs)
        self.before = {value: self._shape(value) for value in model.graph.inputs}
        self._rules: dict[str, Callable[[ir.Node], None]] = {
            "Concat": self._concat,
            "Expand": self._expand,
            "Gather": self._gather,
            "Gemm": self._gemm,
            "MatMul": self._matmul,
            "Pad": self._pad,
            "Reshape": self._reshape,
            "Slice": self._slice,
            "Squeeze": self._squeeze,
            "Transpose": self._transpose,
            "Unsqueeze": self._unsqueeze,
            f"{DOMAIN}.GatherBlockQuantized": self._rows_of_table,
            f"{DOMAIN}.MatMulNBits": self._rows_by_weights,
        }
        self._made: dict[tuple[ir.Value, bytes], ir.Value] = {}
        self._taken = {*model.graph.initializers, *(v.name or "" for node in model.graph for v in node.outputs)}

    def run(self) -> None:
        """Follow the invariant through the graph, then write down the new shapes."""
        for node in self.model.graph:
            if not self._reads(node):
                continue
            self.before.update({value: self._shape(value, node) for value in node.outputs})
            self._rule(node)(node)
            self.values.update(node.outputs)
        for value in self.model.graph.outputs:
            if value not in self.values:
                self._refuse(value.producer(), f"output {value.name} depends on no input")
        for value in self.values:
            first, *rest = self.before[value]
            value.shape = ir.Shape([first * self.batch, *rest])

    def _rule(self, node: ir.Node) -> Callable[[ir.Node], None]:
        kind = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
        if kind in _POINTWISE:
            return self._pointwise
        if kind in _ALONG_ONE_AXIS:
            return self._along_one_axis
        if kind in _REDUCTIONS:
            return self._reduction
        if kind not in self._rules:
            self._refuse(node, "no rule knows the operator")
        return self._rules[kind]

    def _pointwise(self, node: ir.Node) -> None:
        """Operands are aligned at the right, so what is stacked must reach the first axis of the result."""
        (result,) = (self.before[value] for value in node.outputs)
        for value in node.inputs:
            if value is None:
                continue
            dims = self.before.get(value) or self._shape(value, node)
            if value in self.values and (len(dims), dims[0]) != (len(result), result[0]):
                self._refuse(node, f"{value.name} is broadcast along the batch")
            if value not in self.values and len(dims) == len(result) and dims[:1] not in ((), (1,)):
                self._refuse(node, f"{value.name} has entries of its own along the batch")

    def _along_one_axis(self, node: ir.Node) -> None:
        found = node.attributes.get("axis")
        self._apart(node, [_ALONG_ONE_AXIS[node.op_type] if found is None else found.as_int()])
        if node.op_type == "GatherElements":
            self._all(node)

    def _reduction(self, node: ir.Node) -> None:
        self._apart(node, self._integers(node, 1) if len(node.inputs) > 1 else [0])

    def _slice(self, node: ir.Node) -> None:
        self._apart(node, self._integers(node, 3) if len(node.inputs) > 3 else [0])

    def _squeeze(self, node: ir.Node) -> None:
        self._apart(node, self._integers(node, 1) if len(node.inputs) > 1 else [0])

    def _unsqueeze(self, node: ir.Node) -> None:
        self._apart(node, self._integers(node, 1), len(self.before[node.outputs[0]]))

    def _pad(self, node: ir.Node) -> None:
        pads = self._integers(node, 1)
        if len(node.inputs) > 3 and node.inputs[3] is not None:
            self._apart(node, self._integers(node, 3))
        elif pads[0] or pads[len(pads) // 2]:
            self._refuse(node, "it pads the batch")

    def _transpose(self, node: ir.Node) -> None:
        if "perm" not in node.attributes or node.attributes["perm"].as_ints()[0] != 0:
            self._refuse(node, "it moves the batch")

    def _concat(self, node: ir.Node) -> None:
        self._apart(node, [node.attributes["axis"].as_int()])
        for index, value in enumerate(node.inputs):
            if value is not None and value not in self.values:
                content = array(value)
                if content is None:
                    self._refuse(node, f"{value.name} is computed from no input")
                self._replace(node, index, np.concatenate([content] * self.batch))

    def _gather(self, node: ir.Node) -> None:
        data, indices = (value in self.values for value in node.inputs)
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
        if data and indices:
            self._refuse(node, "positions of one input would be read in all")
        if data:
            self._apart(node, [axis])
        elif axis % len(self._shape(node.inputs[0], node)):
            self._refuse(node, "it moves the batch")

    def _reshape(self, node: ir.Node) -> None:
        """Blocks stay whole where only the first axis grows."""
        target = self._integers(node, 1)
        if target[0] > 0:
            self._replace(node, 1, np.array([target[0] * self.batch, *target[1:]], np.int64))

    def _expand(self, node: ir.Node) -> None:
        target, dims = self._integers(node, 1), self.before[node.inputs[0]]  # type: ignore[index]
        if len(target) > len(dims) or (len(target) == len(dims) and target[0] not in (1, dims[0])):
            self._refuse(node, "it repeats the batch")
        if len(target) == len(dims) and target[0] == dims[0]:
            self._replace(node, 1, np.array([target[0] * self.batch, *target[1:]], np.int64))

    def _matmul(self, node: ir.Node) -> None:
        """Rows are free; a second matrix that is stacked needs an axis for it in both."""
        operands = [value for value in node.inputs if value is not None]
        left, right = (self.before.get(value) or self._shape(value, node) for value in operands)
        if node.inputs[1] not in self.values and len(right) <= 2 <= len(left):
            return
        result = self.before[node.outputs[0]]
        for value, dims in zip(operands, (left, right)):
            if value in self.values and (len(dims) < 3 or (len(dims), dims[0]) != (len(result), result[0])):
                self._refuse(node, f"{value.name} has no axis of its own for the batch")
            if value not in self.values and len(dims) == len(result) and dims[0] != 1:
                self._refuse(node, f"{value.name} has entries of its own along the batch")

    def _rows_by_weights(self, node: ir.Node) -> None:
        """Rows are free, of everything that is multiplied by weights of the graph alone."""
        if any(value in self.values for value in node.inputs[1:]) or len(self.before[node.inputs[0]]) < 2:  # type: ignore[index]
            self._refuse(node, "it takes a product over the batch")

    def _rows_of_table(self, node: ir.Node) -> None:
        axis = node.attributes["gather_axis"].as_int() if "gather_axis" in node.attributes else 0
        if node.inputs[0] in self.values or axis:
            self._refuse(node, "it moves the batch")

    def _gemm(self, node: ir.Node) -> None:
        flipped = "transA" in node.attributes and node.attributes["transA"].as_int()
        if flipped or any(value in self.values for value in node.inputs[1:]):
            self._refuse(node, "it takes a product over the batch")
        if len(node.inputs) > 2 and len(dims := self._shape(node.inputs[2], node)) == 2 and dims[0] != 1:
            self._refuse(node, "its bias has entries of its own along the batch")

    def _apart(self, node: ir.Node, axes: Sequence[int], rank: int | None = None) -> None:
        """Refuse what works along axis 0 of what comes in, or of the rank given."""
        rank = rank or len(self.before[next(value for value in node.inputs if value in self.values)])
        if any(axis % rank == 0 for axis in axes):
            self._refuse(node, "it works along the batch")

    def _all(self, node: ir.Node) -> None:
        if not all(value in self.values for value in node.inputs):
            self._refuse(node, "an operand is the same for all inputs, and has no entries for the others")

    def _reads(self, node: ir.Node) -> bool:
        return any(value in self.values for value in node.inputs)

    def _integers(self, node: ir.Node, index: int) -> tuple[int, ...]:
        value = node.inputs[index]
        found = None if value in self.values else integers(value)
        if not found:
            self._refuse(node, f"operand {index} is not constant")
        return found

    def _shape(self, value: ir.Value | None, node: ir.Node | None = None) -> tuple[int, ...]:
        if value is None or value.shape is None or not value.shape.is_static():
            self._refuse(node, f"the shape of {value.name if value else 'an operand'} is not static")
        return tuple(value.shape.numpy())

    def _replace(self, node: ir.Node, index: int, content: np.ndarray) -> None:
        old = node.inputs[index]
        assert old is not None
        key = (old, content.tobytes())
        if key not in self._made:
            name = unique_name(f"{old.name}_batch", self._taken)
            made = ir.Value(name=name, const_value=ir.tensor(content, name=name))
            made.shape, made.type = ir.Shape(content.shape), old.type
            self.model.graph.register_initializer(made)
            self._made[key] = made
        node.replace_input_with(index, self._made[key])

    def _refuse(self, node: ir.Node | None, why: str) -> NoReturn:
        what = f"{node.op_type} {node.name or node.outputs[0].name!r}: " if node else ""
        raise GraphError(
            f"the graph cannot take several inputs at once: {what}{why}",
            where=f"graph {self.model.graph.name}",
            fix="Run it on one input at a time.",
        )
