"""A float32 graph becomes a typed half-precision graph with named float32 islands.

Precision is a property of the graph: types of initializers, Cast at the border of an island. No builder flag is needed,
and none exists any more in TensorRT 11.

Convert *before* a compressor is inserted: its seam then has the type it will run in, and its body is built for that
type. Selection inside a body is float32 for any input type.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir

from ...errors import GraphError, RequestError, nearest
from ..ir_tools.builder import DTYPE_NAMES
from ..ir_tools.infer_shapes import infer_missing_shapes
from ..ir_tools.walk import node_keys
from ..seams.seam import METADATA_KEY
from .casts import add_cast
from .islands import FLOAT, asked_for, half_slots, plan

_HALVES = {"float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}
_SMALL = 4096  # elements; smaller constants are converted at once, so that passes can read them


@dataclass(frozen=True)
class Report:
    """What `to_half` did.

    Attributes:
        dtype: float16 or bfloat16.
        islands: node (`walk.node_keys`) -> why it computes in float32.
        casts: Cast nodes that were added.
        weights: constants that were converted.
        nodes: nodes that compute in `dtype`.
    """

    dtype: str
    islands: dict[str, str]
    casts: int
    weights: int
    nodes: int


_QUANTISED = ("MatMulInteger", "ConvInteger", "MatMulNBits", "QLinearMatMul", "QLinearConv")


def to_half(
    model: ir.Model,
    dtype: Literal["float16", "bfloat16"] = "float16",
    islands: Mapping[str, str] | Collection[str] = (),
    *,
    typed_io: Collection[str] = (),
) -> Report:
    """Convert a float32 model in place.

    Inputs and outputs of the graph keep float32, cast at the border, so that the contract of a graph does not depend on
    its precision. `typed_io` names those that get the new type: a KV cache, or tokens that another half-precision
    graph reads. An inner value keeps its name if it has the new type, so seams stay valid.

    Weights are converted when they are read, one at a time.

    Args:
        model: no local functions; shapes and types are inferred where they are missing.
        dtype: the type of everything that is not an island.
        islands: nodes, by `walk.node_keys` or name (-> reason), to keep in float32, besides those of
            `islands.BY_OPERATOR`. `ranges.find_islands` finds those that real inputs need.
        typed_io: names of graph inputs and outputs that become `dtype`.

    Raises:
        RequestError: an unknown dtype, node, input or output.
        GraphError: local functions, subgraphs, a quantised model, or a value without a type. On saving: a weight that
            overflows.
    """
    if dtype not in _HALVES:
        raise RequestError(f"precision {dtype!r} is not known", fix=nearest(dtype, _HALVES, kind="types"))
    quantised = next((node for node in model.graph if "Quant" in node.op_type or node.op_type in _QUANTISED), None)
    if quantised is not None:
        raise GraphError(
            "a quantised model cannot change its precision: its scales belong to the types it has",
            where=f"{quantised.op_type} {quantised.name or quantised.outputs[0].name!r}",
            fix="Add --precision fp32, which leaves its types as they are, or give the file from before quantisation.",
        )
    if model.functions:
        name = next(iter(model.functions.values())).name
        raise GraphError(
            "a model with local functions cannot change its precision",
            where=f"function {name}",
            fix="Convert before a compressor is inserted; inline other functions first (forms.to_inlined).",
        )
    half = _HALVES[dtype]
    _check(model.graph, typed_io)
    infer_missing_shapes(model)
    keys = node_keys(model.graph)
    wanted = asked_for(keys, islands if isinstance(islands, Mapping) else dict.fromkeys(islands, "asked for"))
    _lift_constants(model.graph)
    _drop_empty_casts(model.graph)
    planned = plan(model, half, wanted)
    conversion = _Conversion(model.graph, half, planned, typed_io)
    conversion.run()
    _drop_empty_casts(model.graph)
    _retype_seams(model)
    kept = {keys[node]: reason for node, reason in planned.items() if node.graph is not None}
    return Report(dtype, kept, conversion.casts, conversion.weights, conversion.nodes)


class _Conversion:
    """Decides the type of every value first, then casts where the ends of an edge differ; islands come in any order."""

    def __init__(
        self, graph: ir.Graph, half: ir.DataType, islands: Collection[ir.Node], typed_io: Collection[str]
    ) -> None:
        self.graph, self.half, self.typed_io = graph, half, typed_io
        opset = graph.opset_imports.get("", 18)
        self.slots = {n: (set(), set()) if n in islands else half_slots(n, half, opset) for n in graph}
        self.edges: list[tuple[ir.Node, int, ir.DataType]] = []
        self.readers: dict[ir.Value, set[ir.DataType]] = {}
        for node in graph:
            for i, value in enumerate(node.inputs):
                if value is not None and value.dtype == FLOAT:
                    wanted = half if i in self.slots[node][0] else FLOAT
                    self.edges.append((node, i, wanted))
                    self.readers.setdefault(value, set()).add(wanted)
        self.copies: dict[ir.Value, ir.Value] = {}
        self.casts = self.weights = 0
        self.nodes = sum(any(slots) for slots in self.slots.values())

    def run(self) -> None:
        for node, (inputs, outputs) in self.slots.items():
            for i in outputs:
                node.outputs[i].type = ir.TensorType(self.half)
            if inputs or outputs:
                _retype_attributes(node, self.half)
        for value in self.graph.inputs:
            if value.name in self.typed_io and value.dtype == FLOAT:
                value.type = ir.TensorType(self.half)
        borders = self._borders()
        for node, i, wanted in self.edges:
            read = node.inputs[i]
            assert read is not None
            node.replace_input_with(i, self._as(borders.get(read, read), wanted))
        for i, value in enumerate(self.graph.outputs):
            self.graph.outputs[i] = borders.get(value, value)

    def _borders(self) -> dict[ir.Value, ir.Value]:
        """Casts for graph outputs that now have the wrong type; the Cast takes over the name.

        The graph itself reads the output too, not the value before it: whoever inserts something at that name must
        reach every reader.
        """
        result: dict[ir.Value, ir.Value] = {}
        for value in self.graph.outputs:
            wanted = self.half if value.name in self.typed_io else FLOAT
            if value not in result and value.dtype in (FLOAT, self.half) and value.dtype != wanted:
                name, value.name = value.name or "", f"{value.name}.inner"
                result[value] = self._cast(value, wanted, name)
        return result

    def _as(self, value: ir.Value, wanted: ir.DataType) -> ir.Value:
        if value.dtype == wanted:
            return value
        if value not in self.copies:
            self.copies[value] = self._copy(value, wanted)
        return self.copies[value]

    def _copy(self, value: ir.Value, wanted: ir.DataType) -> ir.Value:
        name = f"{value.name}.{DTYPE_NAMES[wanted]}"
        all_read_it = self.readers.get(value) == {wanted}
        if value.is_initializer() and value.const_value is not None and not value.is_graph_input():
            self.weights += 1
            if all_read_it and not value.is_graph_output():
                value.const_value = _converted(value.const_value, wanted, value.name or "")
                value.type = ir.TensorType(wanted)
                return value
            tensor = _converted(value.const_value, wanted, name)
            copy = ir.Value(name=name, type=ir.TensorType(wanted), shape=value.shape, const_value=tensor)
            self.graph.register_initializer(copy)
            return copy
        if wanted == self.half and all_read_it and value.producer() and not value.is_graph_output():
            # The value that all consumers read keeps the name, because a seam of this name means that value.
            name, value.name = value.name or "", f"{value.name}.{DTYPE_NAMES[FLOAT]}"
        return self._cast(value, wanted, name)

    def _cast(self, value: ir.Value, wanted: ir.DataType, name: str) -> ir.Value:
        self.casts += 1
        return add_cast(self.graph, value, wanted, name)


def _converted(tensor: ir.TensorProtocol, wanted: ir.DataType, name: str) -> ir.TensorProtocol:
    def convert() -> ir.Tensor:
        array = tensor.numpy()
        with np.errstate(over="ignore"):
            result = array.astype(wanted.numpy())
        if not np.isfinite(result.astype(np.float32)).all() and np.isfinite(array).all():
            raise GraphError(
                f"a weight of {np.abs(array).max():g} does not fit {DTYPE_NAMES[wanted]}",
                where=f"initializer {tensor.name!r}",
                fix="Keep the node that reads it in float32: to_half(..., islands=[node]).",
            )
        return ir.Tensor(result, dtype=wanted, name=name)

    if tensor.size <= _SMALL:
        return convert()
    return ir.LazyTensor(convert, dtype=wanted, shape=_shape(tensor), name=name)


def _shape(tensor: ir.TensorProtocol) -> ir.Shape:
    return ir.Shape(tensor.shape.numpy())


def _retype_attributes(node: ir.Node, half: ir.DataType) -> None:
    """Change output types that are set by an attribute, not by the inputs."""
    if node.op_type == "Cast" and node.outputs[0].dtype == half:
        node.attributes["to"] = ir.AttrInt64("to", int(half))
    elif node.op_type == "ConstantOfShape":
        existing = node.attributes.get("value")
        array = existing.as_tensor().numpy() if existing is not None else np.zeros(1, np.float32)
        node.attributes["value"] = ir.AttrTensor("value", ir.Tensor(array.astype(half.numpy()), dtype=half))


def _lift_constants(graph: ir.Graph) -> None:
    """Float Constant nodes become initializers, so that there is one kind of constant to convert."""
    for node in list(graph):
        value = node.outputs[0] if node.outputs else None
        if node.op_type != "Constant" or value is None or value.dtype != FLOAT or value.is_graph_output():
            continue
        tensor = ir.convenience.get_const_tensor(value)
        if tensor is None:
            continue
        name, value.name = value.name, None
        constant = ir.Value(
            name=name, type=ir.TensorType(FLOAT), shape=_shape(tensor), const_value=ir.tensor(tensor.numpy())
        )
        value.replace_all_uses_with(constant)
        graph.remove(node, safe=True)
        graph.register_initializer(constant)


def _drop_empty_casts(graph: ir.Graph) -> None:
    """Casts to the type that a value already has, which exporters leave in the graph and a conversion adds to."""
    for node in list(graph):
        if node.op_type != "Cast" or node.outputs[0].is_graph_output():
            continue
        value = node.inputs[0]
        if value is not None and value.dtype == node.attributes["to"].as_int():
            node.outputs[0].replace_all_uses_with(value)
            graph.remove(node, safe=True)


def _check(graph: ir.Graph, typed_io: Collection[str]) -> None:
    known = [value.name or "" for value in (*graph.inputs, *graph.outputs)]
    for name in typed_io:
        if name not in known:
            raise RequestError(
                f"there is no graph input or output {name!r}", fix=nearest(name, known, kind="inputs and outputs")
            )


def _retype_seams(model: ir.Model) -> None:
    """Update the tensor type in the seams stored in the model."""
    if METADATA_KEY not in model.metadata_props:
        return
    types = {value.name: value.dtype for node in model.graph for value in node.outputs}
    seams = json.loads(model.metadata_props[METADATA_KEY])
    for seam in seams:
        seam["dtype"] = DTYPE_NAMES.get(types.get(seam["tensor"]) or FLOAT, seam["dtype"])
    model.metadata_props[METADATA_KEY] = json.dumps(seams)
