"""Rows of position tables at the kept tokens: rotary cosines and sines belong to a place, not to a slot."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..ir_tools.builder import Builder
from .axis import Axis
from .state import ROWS_KEY, Edit


class Rows:
    """Adds a Gather for each table that was planned to be read at the kept tokens, once for each table."""

    def __init__(self, graph: ir.Graph, kept: ir.Value | None) -> None:
        self.graph, self.kept = graph, kept
        self._made: dict[tuple[ir.Value, int], ir.Value] = {}
        self._indices: dict[Axis, ir.Value] = {}

    def read(self, edit: Edit) -> None:
        """Let the node read the rows of its table."""
        assert edit.rows is not None and self.kept is not None, "such edits are planned for known positions"
        position, axis = edit.rows
        table = edit.node.inputs[edit.index]
        assert table is not None
        if (table, position) not in self._made:
            b = Builder(f"{self.kept.name}.rows_{len(self._made)}.")
            indices = self._indices.get(axis)
            if indices is None:
                indices = self._indices[axis] = self._places(b, axis)
            taken = b.op("Gather", table, indices, axis=position)
            b.nodes[-1].metadata_props[ROWS_KEY] = "1"
            taken.type, taken.shape = table.type, ir.Shape([int(size) for size in edit.array])
            self.graph.insert_before(edit.node, b.nodes)
            self._made[table, position] = taken
        edit.node.replace_input_with(edit.index, self._made[table, position])

    def _places(self, b: Builder, axis: Axis) -> ir.Value:
        """Prefix, kept tokens and suffix, as places among the entries before compression."""
        assert self.kept is not None
        places = b.op("Squeeze", self.kept, [0])
        if axis.prefix:
            places = b.op("Concat", np.arange(axis.prefix), b.op("Add", places, [axis.prefix]), axis=0)
        if axis.suffix:
            places = b.op("Concat", places, np.arange(axis.old - axis.suffix, axis.old), axis=0)
        places.dtype, places.shape = ir.DataType.INT64, ir.Shape([axis.kept])
        return places
