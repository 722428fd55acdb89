"""Work out shapes, and integers that follow from shapes, where an exporter left them to run time.

Exporters spell a learned token on its batch as Shape -> Gather -> Concat -> Equal -> Where -> Expand, and shape
inference stops at the Where. One walk in the order of the graph evaluates small integers and gives each node's outputs
the shapes that follow. The batch may stay dynamic: a large prime stands for it, so what depends on it is told apart.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx_ir as ir

from .contrib_shapes import DOMAIN, contrib_sizes
from .fold_integers import COMPARES, EVALUATE, GROWS, plain

_LONGEST = 4096  # Elements; what is longer is content, not a shape or a position.
FIRST_STAND_IN = 10**9 + 7  # A prime.
# The end of a slice that is left open; not a size.
_OPEN = 2**31 - 1


@functools.cache
def stand_in(number: int) -> int:
    """The number that stands for a dynamic dimension, the first for 0: a prime, which no count of tokens divides."""
    if number == 0:
        return FIRST_STAND_IN
    found = stand_in(number - 1) + 2
    while any(found % divisor == 0 for divisor in range(3, math.isqrt(found) + 1, 2)):
        found += 2
    return found


def fold_shapes(model: ir.Model) -> dict[ir.Value, ir.Shape | None]:
    """Annotate values with shapes, and integers that follow from shapes alone as `const_value`; nothing else changes.

    Weights are not read. What an earlier call noted is forgotten first, so it may be called again after an edit.

    Returns:
        The shape that each value had whose shape was found.
    """
    forget(model.graph)
    folding = _Folding(model)
    for node in model.graph:
        folding.visit(node)
    return folding.before


def forget(nodes: Iterable[ir.Node]) -> None:
    """Remove the integers that `fold_shapes` noted: after an edit they may no longer hold."""
    for node in nodes:
        if node.op_type != "Constant":
            for output in node.outputs:
                output.const_value = None


class _Folding:
    def __init__(self, model: ir.Model) -> None:
        self.known: dict[ir.Value, np.ndarray] = {}
        self.model = model
        self.opset = model.graph.opset_imports.get("", model.graph.opset_imports.get("ai.onnx", 0))
        self.symbols: dict[int, Any] = {}
        self.numbers: dict[Any, int] = {}
        self.before: dict[ir.Value, ir.Shape | None] = {}

    def visit(self, node: ir.Node) -> None:
        if node.domain == DOMAIN or node.op_type == "SimplifiedLayerNormalization":
            for output, sizes, dtype in contrib_sizes(node, self.dims):
                output.dtype = output.dtype or dtype  # type: ignore[assignment]
                self._narrow(output, sizes)
        if node.domain not in ("", "ai.onnx") or node.op_type == "Constant":
            return
        if any(_open(output) for output in node.outputs):
            self._infer(node)
        output = node.outputs[0]
        array = self._evaluate(node)
        if array is None:
            return
        array = np.asarray(array)
        self.known[output] = array
        if output.shape is None:
            self.before[output], output.shape = None, ir.Shape(array.shape)
        if output.dtype is None:
            output.dtype = ir.DataType.from_numpy(array.dtype)
        if array.dtype.kind in "ib" and not _symbolic(array).any():
            output.const_value = ir.tensor(array, name=output.name)

    def array(self, value: ir.Value | None) -> np.ndarray | None:
        """The small integers (or few floats) that a value holds; entries above `FIRST_STAND_IN` depend on the batch."""
        if value is None:
            return None
        if value in self.known:
            return self.known[value]
        producer = value.producer()
        if producer is not None and producer.op_type != "Constant":
            return None
        tensor = ir.convenience.get_const_tensor(value)
        if tensor is None or value.is_graph_input() or isinstance(tensor, ir.ExternalTensor):
            return None
        whole = tensor.dtype.is_integer() or tensor.dtype == ir.DataType.BOOL
        # Texts have no size.
        if tensor.dtype == ir.DataType.STRING or tensor.size > (_LONGEST if whole else 1) or tensor.dtype.itemsize < 1:
            return None
        self.known[value] = np.asarray(tensor.numpy())
        return self.known[value]

    def dims(self, value: ir.Value | None) -> list[int | None] | None:
        """Sizes, a symbol for a batch of unknown size, None for any other unknown one."""
        if value is None or value.shape is None:
            return None
        return [self._size(dim, i) for i, dim in enumerate(value.shape)]

    def _size(self, dim: Any, axis: int) -> int | None:
        if isinstance(dim, int):
            return dim
        name = getattr(dim, "value", None)
        if name is None or (axis and name not in self.numbers):
            return None
        if name not in self.numbers:
            self.numbers[name] = stand_in(len(self.numbers))
            self.symbols[self.numbers[name]] = dim
        return self.numbers[name]

    def _evaluate(self, node: ir.Node) -> np.ndarray | None:
        if node.op_type in ("Shape", "Size"):
            return self._shape(node)
        function = EVALUATE.get(node.op_type)
        if function is None or not node.inputs:
            return None
        inputs = [self.array(value) for value in node.inputs]
        if any(array is None and value is not None for array, value in zip(inputs, node.inputs)):
            return None
        if node.op_type in COMPARES and _undecided(inputs):
            return None
        if node.op_type in GROWS and not _short(node.op_type, inputs):
            return None
        try:
            with np.errstate(all="ignore"):
                array = np.asarray(function(node, *inputs))
        except (ValueError, IndexError, TypeError, ZeroDivisionError):
            return None
        return array if array.size <= _LONGEST else None

    def _shape(self, node: ir.Node) -> np.ndarray | None:
        dims = self.dims(node.inputs[0])
        if dims is None:
            return None
        if node.op_type == "Size":
            return None if None in dims else np.asarray(np.prod(dims, dtype=np.int64))  # type: ignore[arg-type]
        start, end = plain(node, "start", 0), plain(node, "end", None)
        dims = dims[start:end]
        # An unknown size other than the batch is a symbol of its own: what is computed from it is not known either.
        return np.array([dim if dim is not None else self._fresh() for dim in dims], np.int64)

    def _fresh(self) -> int:
        number = stand_in(len(self.numbers))
        self.numbers[object()] = number
        return number

    def _infer(self, node: ir.Node) -> None:
        """Shapes of the outputs of one node, from those of its inputs and the integers that are known."""
        target = self._target(node)
        if target is not None:
            self._narrow(node.outputs[0], target)
        if not any(_open(output) for output in node.outputs):
            return
        import onnx

        types: dict[str, onnx.TypeProto] = {}
        data: dict[str, onnx.TensorProto] = {}
        for value in node.inputs:
            if value is None or not value.name:
                continue
            if value.dtype is None:
                return
            dims = None if value.shape is None else [d if isinstance(d, int) else d.value for d in value.shape]
            types[value.name] = onnx.helper.make_tensor_type_proto(int(value.dtype), dims)
            array = self.array(value)
            if array is not None and not _symbolic(array).any():
                data[value.name] = onnx.numpy_helper.from_array(np.ascontiguousarray(array), value.name)
        try:
            schema = onnx.defs.get_schema(node.op_type, max_inclusive_version=self.opset, domain="")
            imports = [onnx.helper.make_opsetid("", self.opset)]
            found = onnx.shape_inference.infer_node_outputs(
                schema, ir.to_proto(node), types, data, opset_imports=imports, ir_version=10
            )
        except Exception:
            # Their errors have no public base class; what cannot be inferred stays unknown, and who needs it says so.
            return
        for output in node.outputs:
            if output.name in found:
                tensor = found[output.name].tensor_type
                if output.dtype is None and tensor.elem_type:
                    output.dtype = ir.DataType(tensor.elem_type)
                if tensor.HasField("shape"):
                    self._narrow(output, [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim])

    def _target(self, node: ir.Node) -> list[int | None] | None:
        """The output sizes of an operator that is given them, where the batch keeps shape inference from telling."""
        if node.op_type == "ConstantOfShape":
            wanted = self.array(node.inputs[0])
            return None if wanted is None else _sizes(wanted)
        if node.op_type == "Tile":
            repeats, source = self.array(node.inputs[1]), self.dims(node.inputs[0])
            if repeats is None or source is None or repeats.shape != (len(source),):
                return None
            return [None if a is None else a * int(b) for a, b in zip(source, repeats)]
        if node.op_type not in ("Expand", "Reshape") or len(node.inputs) < 2:
            return None
        wanted, source = self.array(node.inputs[1]), self.dims(node.inputs[0])
        if wanted is None or wanted.ndim != 1:
            return None
        if node.op_type == "Expand":
            if source is None:
                return None
            rank = max(len(source), len(wanted))
            left = [1] * (rank - len(source)) + source
            right = [1] * (rank - len(wanted)) + [int(x) for x in wanted]
            return [a if b == 1 else b for a, b in zip(left, right)]
        sizes: list[int | None] = [int(x) for x in wanted]
        if plain(node, "allowzero", 0) == 0:
            sizes = [source[i] if x == 0 and source and i < len(source) else x for i, x in enumerate(sizes)]
        if -1 in sizes:
            at = sizes.index(-1)
            others = sizes[:at] + sizes[at + 1 :]
            if source is None or None in source or None in others:
                sizes[at] = None
            else:
                total, product = 1, 1
                for x in source:
                    total *= x  # type: ignore[operator]
                for x in others:
                    product *= x  # type: ignore[operator]
                sizes[at] = total // product if product and total % product == 0 else None
        return sizes

    def _narrow(self, output: ir.Value, sizes: list[int | None]) -> None:
        """Give `output` the sizes that are known; what it says already stays."""
        old = (
            list(output.shape)
            if output.shape is not None and output.shape.rank() == len(sizes)
            else [None] * len(sizes)
        )
        new: list[Any] = []
        for size, dim in zip(sizes, old):
            if isinstance(dim, int):
                new.append(dim)
            elif size is not None and size < FIRST_STAND_IN:
                new.append(size)
            else:
                new.append(self.symbols.get(size, dim if dim is not None else ir.SymbolicDim(None)))  # type: ignore[arg-type]
        self.before.setdefault(output, output.shape)
        output.shape = ir.Shape(new)


def _open(value: ir.Value) -> bool:
    """Whether the type or a size of a value is not known."""
    return bool(value.name) and (value.dtype is None or value.shape is None or not value.shape.is_static())


def _symbolic(array: np.ndarray) -> np.ndarray:
    """Which entries depend on a size that is not known: a bound that is left open is not one."""
    if array.dtype.kind not in "iuf":
        return np.zeros(array.shape, bool)
    numbers = array.astype(np.float64)
    large = (np.abs(numbers) >= FIRST_STAND_IN // 4096) & (np.abs(numbers) < 2.0**62)
    return large & (numbers != _OPEN)


def _undecided(inputs: list[np.ndarray | None]) -> bool:
    """Whether a comparison with an unknown size could go either way: it is known to be positive, and nothing else."""
    left, right = inputs[0], inputs[1]
    assert left is not None and right is not None
    left, right = np.broadcast_arrays(left, right)
    a, b = _symbolic(left), _symbolic(right)
    return bool(((a & b) | (a & (right > 0)) | (b & (left > 0))).any())


def _short(op: str, inputs: list[np.ndarray | None]) -> bool:
    """Whether an operator that makes its output as large as it is told stays small."""
    if op == "Range":
        start, limit, delta = (float(np.asarray(x).reshape(-1)[0]) for x in inputs if x is not None)
        return delta != 0 and abs((limit - start) / delta) <= _LONGEST
    sizes = inputs[0] if op == "ConstantOfShape" else inputs[1]
    if sizes is None or _symbolic(sizes).any():
        return False
    own = 1 if op == "ConstantOfShape" else int(np.asarray(inputs[0]).size)
    return own * float(np.prod(np.maximum(sizes, 1), dtype=np.float64)) <= _LONGEST


def _sizes(wanted: np.ndarray) -> list[int | None]:
    return [int(x) for x in wanted.reshape(-1)]
