"""A small builder that writes the body of a compressor node by node: a Python loop becomes unrolled nodes.

Bodies use the standard domain at opset 18 and hold no initializers (an ONNX function cannot have any): constants are
`Constant` nodes, shared when equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir

OPSET = 18

# What an operator's input may be: a value, or a number / list / array that becomes a Constant node.
Operand: TypeAlias = ir.Value | np.ndarray | int | float | Sequence[int] | Sequence[float]

DTYPES = {
    "float32": ir.DataType.FLOAT,
    "float16": ir.DataType.FLOAT16,
    "bfloat16": ir.DataType.BFLOAT16,
    "int64": ir.DataType.INT64,
    "int32": ir.DataType.INT32,
    "bool": ir.DataType.BOOL,
}
DTYPE_NAMES = {data_type: name for name, data_type in DTYPES.items()}


class Builder:
    """Collects nodes of the standard domain in execution order.

    Args:
        prefix: prepended to every value name, so that names of two bodies in one graph do not clash.
        exact_ties: the target does not define the order of equal values in TopK and ArgMax, so bodies rank by counting.
    """

    def __init__(self, prefix: str = "", *, exact_ties: bool = False) -> None:
        self.prefix = prefix
        self.exact_ties = exact_ties
        self.nodes: list[ir.Node] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}

    def ops(self, op_type: str, *inputs: Operand | None, n: int, **attributes: Any) -> list[ir.Value]:
        """Append one node with `n` outputs and return them. ``None`` leaves an optional input out."""
        values = [None if x is None else self.value(x) for x in inputs]
        node = ir.node(op_type, values, attributes, num_outputs=n)
        index = len(self.nodes)
        for i, output in enumerate(node.outputs):
            output.name = f"{self.prefix}{op_type.lower()}_{index}" + (f"_{i}" if n > 1 else "")
        self.nodes.append(node)
        return list(node.outputs)

    def op(self, op_type: str, *inputs: Operand | None, **attributes: Any) -> ir.Value:
        """Append one node with a single output and return it."""
        return self.ops(op_type, *inputs, n=1, **attributes)[0]

    def value(self, operand: Operand) -> ir.Value:
        """The operand as a value: int -> int64 scalar, float -> float32 scalar, list -> one dimension."""
        return operand if isinstance(operand, ir.Value) else self.const(operand)

    def const(self, data: Operand) -> ir.Value:
        """A Constant node holding `data`; Python integers become int64, Python floats float32."""
        assert not isinstance(data, ir.Value)
        array = data if isinstance(data, np.ndarray) else np.asarray(data)
        if not isinstance(data, np.ndarray):
            array = array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self.op("Constant", value=ir.tensor(array))
        return self._constants[key]

    def cast(self, x: Operand, dtype: str) -> ir.Value:
        """Cast to one of `DTYPES`."""
        return self.op("Cast", x, to=int(DTYPES[dtype]))

    def function(
        self, domain: str, name: str, inputs: Sequence[ir.Value], outputs: Mapping[str, ir.Value]
    ) -> ir.Function:
        """Close the body into a local function.

        Args:
            domain: domain of the function.
            name: its name, unique in the model.
            inputs: formal inputs, as `ir.Value` without a producer.
            outputs: name -> value. Names are fixed by an Identity, so a value may appear twice or be an input.
        """
        named = []
        for output_name, value in outputs.items():
            result = self.op("Identity", value)
            result.name = f"{self.prefix}{output_name}"
            named.append(result)
        graph = ir.Graph(inputs, named, nodes=self.nodes, opset_imports={"": OPSET}, name=name)
        return ir.Function(domain, name, graph=graph, attributes=())
