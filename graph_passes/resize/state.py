"""The state of the proof of the downstream graph: which axes of which value run over the tokens.

Nothing here edits the model. The rules read operands through `Downstream`, record the constants that must change as
`Edit`s, and refuse through `Downstream.refuse`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np
import onnx_ir as ir

from ...errors import GraphError
from .axis import Axes, Axis
from .sizes import Sizes

# Marks a Gather of the rows of a table, among the metadata of the node.
ROWS_KEY = "tokexport.rows"


@dataclass
class Edit:
    """Input `index` of `node` becomes the constant `array`, or, with `source`, a copy of that node (Expand,
    ConstantOfShape) whose shape operand is `array`, or, with `rows`, its rows of the kept tokens, of shape `array`."""

    node: ir.Node
    index: int
    array: np.ndarray
    text: str
    source: ir.Node | None = None
    rows: tuple[int, Axis] | None = None

    @property
    def constant(self) -> bool:
        """Whether `array` is the new content."""
        return self.source is None and self.rows is None


@dataclass(frozen=True)
class Pool:
    """A mean, or the softmax that gives its weights, of the first input of `node` over `axis` at `position`."""

    node: ir.Node
    position: int
    axis: Axis


@dataclass
class Downstream:
    """The state of one proof."""

    model: ir.Model
    axes: dict[ir.Value, Axes] = field(default_factory=dict)
    edits: dict[tuple[ir.Node, int], Edit] = field(default_factory=dict)
    pools: list[Pool] = field(default_factory=list)
    no_rows: str = "the kept tokens are not known"

    def __post_init__(self) -> None:
        self.sizes = Sizes(self.axes)

    def dims(self, node: ir.Node, value: ir.Value | None) -> tuple[int, ...]:
        """Sizes before compression; a dynamic dimension is represented by a number (see `Sizes`)."""
        dims = None if value is None else self.sizes.dims(value)
        if dims is None:
            name = value.name if value is not None else "an input"
            self.refuse(node, f"the shape of {name} is not known", fix="Add value_info to the model (shape inference).")
        return dims

    def operand(self, node: ir.Node, index: int) -> np.ndarray | None:
        """The constant at input `index`, earlier edits applied; None if it is left out or computed."""
        if (edit := self.edits.get((node, index))) is not None and edit.constant:
            return edit.array
        value = node.inputs[index] if index < len(node.inputs) else None
        tensor = None if value is None else ir.convenience.get_const_tensor(value)
        return None if tensor is None else read(self, node, tensor)

    def has_input(self, node: ir.Node, index: int) -> bool:
        """Whether the optional input `index` is present."""
        return index < len(node.inputs) and node.inputs[index] is not None

    def ints(self, node: ir.Node, index: int) -> list[int] | None:
        """Input `index` as integers that do not depend on the tokens, or None."""
        if not self.has_input(node, index):
            return None
        pairs = self.sizes.data(node.inputs[index])  # type: ignore[arg-type]
        if pairs is None or any(old is None or old != new for old, new in pairs):
            return None
        return [old for old, _ in pairs if old is not None]

    def edit(self, node: ir.Node, index: int, array: np.ndarray, text: str, source: ir.Node | None = None) -> None:
        """Record that a constant changes."""
        text = f"{node.op_type} {node.name or node.outputs[0].name}: {text}"
        self.edits[node, index] = Edit(node, index, array, text, source)

    def fit(self, node: ir.Node, index: int, position: int, axis: Axis) -> None:
        """Shorten an operand that is not computed from the tokens, yet has their old count on an axis.

        An operand that is equal for all tokens is shortened: a constant that is uniform along the axis, or the result
        of an Expand or ConstantOfShape. Of a table with a row for each position, such as rotary cosines, the rows of
        the kept tokens are taken, where these have one position each. Anything else is refused, with its name.
        """
        value = node.inputs[index]
        assert value is not None
        array = self.operand(node, index)
        if self._take_rows(node, index, position, axis, array):
            return
        if array is not None:
            first = array.take([0], axis=position)
            if not (array == first).all():
                self.refuse(
                    node,
                    f"constant {value.name} {list(array.shape)} holds one entry for each of the {axis.size} tokens on "
                    f"axis {position}, such as positions or a mask; {self.no_rows}",
                )
            short = array.take(range(axis.kept), axis=position)
            self.edit(node, index, short, f"constant {value.name} axis {position} from {axis.size} to {axis.kept}")
            return
        source = value.producer()
        if source is not None and source.domain in ("", "ai.onnx") and source.op_type in ("Expand", "ConstantOfShape"):
            at = 1 if source.op_type == "Expand" else 0
            earlier = self.edits.get((node, index))
            shape = [int(x) for x in earlier.array] if earlier is not None else self.ints(source, at)
            rank = None if value.shape is None else value.shape.rank()
            if shape is not None and rank == len(shape) and shape[position] == axis.size:
                inner = self.sizes.dims(source.inputs[0]) if at and source.inputs[0] is not None else ()
                added = rank - len(inner or ())
                if inner is not None and (position < added or inner[position - added] == 1):
                    shape[position] = axis.kept
                    text = f"shape of {value.name} axis {position} from {axis.size} to {axis.kept}"
                    self.edit(node, index, np.array(shape, np.int64), text, source)
                    return
        why = f"; {self.no_rows}" if self.no_rows and is_rows(value) else ""
        what = f"{value.name} has {axis.size} entries on axis {position}, one per token"
        self.refuse(node, f"{what}, but is not computed from them{why}")

    def _take_rows(self, node: ir.Node, index: int, position: int, axis: Axis, array: np.ndarray | None) -> bool:
        """Record that a table is read at the kept tokens; false where it is no table, or may not be."""
        value = node.inputs[index]
        assert value is not None
        uniform = array is not None and bool((array == array.take([0], axis=position)).all())
        shape = self.sizes.dims(value)
        if self.no_rows or uniform or shape is None or not axis.plain or (node, index) in self.edits:
            return False
        if node.op_type != "Mul" or not (_of_parameters(value) or is_rows(value)):
            return False
        sizes = [axis.kept if i == position else size for i, size in enumerate(shape)]
        text = f"rows of {value.name} on axis {position} are those of the kept tokens"
        self.edit(node, index, np.array(sizes, np.int64), text)
        self.edits[node, index].rows = (position, axis)
        return True

    def meet(self, node: ir.Node, index: int, position: int, axis: Axis) -> Axis:
        """Require that input `index` has `axis` at `position`: it carries the same tokens, or can be shortened."""
        value = node.inputs[index]
        other = self.axes.get(value, {}).get(position)  # type: ignore[arg-type]
        if other is None:
            size = self.dims(node, value)[position]
            if size != axis.size:
                self.refuse(node, f"{self.label(node, index)} has {size} entries where the tokens have {axis.size}")
            self.fit(node, index, position, axis)
            return axis
        either = axis.uniform or other.uniform
        if (axis.size, axis.kept) != (other.size, other.kept) if either else axis != other:
            name = self.label(node, index)
            self.refuse(
                node, f"{name} carries another span of tokens on axis {position}: unrelated tokens would be combined"
            )
        return other if axis.uniform else axis

    def label(self, node: ir.Node, index: int) -> str:
        """The name of an input, for messages."""
        value = node.inputs[index] if index < len(node.inputs) else None
        return "(none)" if value is None else value.name or ""

    def refuse(self, node: ir.Node, why: str, *, fix: str = "") -> NoReturn:
        """Raise `GraphError`: the proof stops at `node`."""
        scope = node.metadata_props.get("pkg.torch.onnx.name_scopes", "")
        name = node.name or (node.outputs[0].name if node.outputs else "")
        raise GraphError(
            f"the graph downstream of the seam does not work with fewer tokens: {node.op_type} {name!r}: {why}",
            where=", ".join(part for part in (f"graph {self.model.graph.name}", scope and f"scope {scope}") if part),
            fix=fix or "Choose a seam further downstream (`tokexport inspect SOURCE` lists them).",
        )


def is_rows(value: ir.Value) -> bool:
    """Whether a value is the rows that an earlier step took of a table."""
    node = value.producer()
    return node is not None and ROWS_KEY in node.metadata_props


def _of_parameters(value: ir.Value) -> bool:
    """Whether a value follows from parameters alone."""
    todo, seen = [value], set()
    while todo:
        value = todo.pop()
        if value in seen:
            continue
        seen.add(value)
        node = value.producer()
        if node is None and not value.is_initializer():
            return False
        todo += [x for x in (node.inputs if node is not None else ()) if x is not None]
    return True


def read(downstream: Downstream, node: ir.Node, tensor: ir.TensorProtocol) -> np.ndarray:
    """The content of a constant."""
    try:
        return np.asarray(tensor.numpy())
    except (OSError, ValueError) as error:
        downstream.refuse(
            node, f"constant {tensor.name} cannot be read ({error})", fix="Load the model from its folder."
        )
