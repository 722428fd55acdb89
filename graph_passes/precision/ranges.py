"""Finds values that float16 cannot represent, by running the float32 graph on real inputs.

ONNX Runtime's CPU runs float16 graphs partly in float32, so a half-precision run there proves types, not ranges. So the
float32 graph is measured: the largest magnitude of every value, and for every sum of products the largest sum of
magnitudes, which bounds each of its partial sums in any order of addition. Both are computed inside the graph, as
scalars: no intermediate becomes an output, and memory stays that of a plain run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir

from ...errors import RequestError
from ..ir_tools.infer_shapes import infer_missing_shapes
from ..ir_tools.ort_session import open_session
from ..ir_tools.walk import node_keys

FLOAT16_MAX = 65504.0
# Half of float16's range: real inputs are a sample, and others may be larger.
LARGE = 3.0e4
# Bytes from which an operand of a sum is a weight, and no mask.
_WEIGHT = 1 << 20

# Operator -> the operator that, run on magnitudes, computes the sum of |a||b|.
_SUMS = {op: op for op in ("MatMul", "Gemm", "Conv", "Einsum", "ReduceSum")} | {"ReduceMean": "ReduceSum"}


def find_islands(
    model: ir.Model, feeds: Mapping[str, np.ndarray] | Iterable[Mapping[str, np.ndarray]]
) -> dict[str, str]:
    """Nodes that must stay in float32 when the graph becomes float16, for `precision.to_half`.

    Args:
        model: a float32 graph; it is not changed. External weights are read by ONNX Runtime where they lie.
        feeds: one or several sets of inputs, name -> array.

    Returns:
        Node (`walk.node_keys`) -> reason: every node that reads or writes a magnitude above `LARGE`, and every
        MatMul, Gemm, Conv, Einsum, ReduceSum or ReduceMean with a sum of magnitudes above `FLOAT16_MAX`.

    Raises:
        MissingError: ONNX Runtime is not installed.
        RequestError: an input is missing, or holds NaN.
        GraphError: ONNX Runtime refuses the graph, or external weights lie in several folders.
    """
    probed = model.clone()
    infer_missing_shapes(probed)
    keys = node_keys(probed.graph)
    for node in probed.graph:
        # ONNX Runtime refuses two nodes of one name.
        node.name = ""
    probes = _add_probes(probed)
    if not probes:
        return {}
    largest = dict.fromkeys(probes, 0.0)
    for found in _runs(probed, list(probes), [feeds] if isinstance(feeds, Mapping) else feeds):
        for name, value in found.items():
            largest[name] = max(largest[name], value)
    result: dict[str, str] = {}
    for name, (node, what, limit) in probes.items():
        if largest[name] > limit:
            result.setdefault(keys[node], f"{what} reaches {largest[name]:.4g}")
    order = {key: i for i, key in enumerate(keys.values())}
    return dict(sorted(result.items(), key=lambda item: order[item[0]]))


def _add_probes(model: ir.Model) -> dict[str, tuple[ir.Node, str, float]]:
    """Append scalars to the graph's outputs: name -> (the node checked, what is measured, its limit)."""
    graph = model.graph
    original = list(graph)
    maxima: dict[ir.Value, ir.Value] = {}
    probes: dict[str, tuple[ir.Node, str, float]] = {}
    graph.outputs.clear()

    def add(op_type: str, inputs: list[ir.Value | None], attributes: Mapping[str, ir.Attr]) -> ir.Value:
        node = ir.Node("", op_type, inputs, list(attributes.values()))
        node.outputs[0].name = f"probe/{len(graph)}"
        graph.append(node)
        return node.outputs[0]

    zero = ir.Value(name="probe/zero", const_value=ir.tensor(np.float32(0)))
    graph.register_initializer(zero)

    def magnitude(value: ir.Value) -> ir.Value:
        size = add("Abs", [value], {})
        if value.const_value is not None and value.const_value.nbytes >= _WEIGHT:
            # Of the largest ones every step takes as much memory again.
            return size
        # An infinity is a mask: it exists in every type and says nothing about the range.
        return add("Where", [add("IsInf", [size], {}), zero, size], {})

    def peak(value: ir.Value) -> ir.Value:
        return add("ReduceMax", [magnitude(value)], {"keepdims": ir.AttrInt64("keepdims", 0)})

    def probe(scalar: ir.Value, node: ir.Node, what: str, limit: float) -> None:
        output = add("Identity", [scalar], {})
        output.type, output.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(())
        graph.outputs.append(output)
        probes[output.name or ""] = (node, what, limit)

    for node in original:
        for value in (*node.outputs, *node.inputs):
            if value is None or value.dtype != ir.DataType.FLOAT or _is_constant(value):
                continue
            if value not in maxima:
                maxima[value] = peak(value)
            probe(maxima[value], node, f"|{value.name}|", LARGE)
        if node.op_type in _SUMS and node.domain == "" and node.outputs[0].dtype == ir.DataType.FLOAT:
            inputs = [magnitude(v) if v is not None and v.dtype == ir.DataType.FLOAT else v for v in node.inputs]
            attributes = dict(node.attributes)
            if "axes" in attributes:
                # Before opset 18 the axes of ReduceMean are an attribute, those of ReduceSum an input since 13.
                numbers = ir.tensor(np.asarray(attributes.pop("axes").as_ints(), np.int64))
                axes = ir.Value(name=f"probe/axes{len(graph)}", const_value=numbers)
                graph.register_initializer(axes)
                inputs.append(axes)
            total = peak(add(_SUMS[node.op_type], inputs, attributes))
            probe(total, node, f"the sum of magnitudes in {node.op_type}", FLOAT16_MAX)
    return probes


def _is_constant(value: ir.Value) -> bool:
    return value.const_value is not None or ir.convenience.get_const_tensor(value) is not None


def _runs(model: ir.Model, names: list[str], feeds: Iterable[Mapping[str, np.ndarray]]) -> Iterable[dict[str, float]]:
    session = open_session(model, packed=False)
    wanted = [value.name for value in session.get_inputs()]
    for feed in feeds:
        for name in wanted:
            if name not in feed or np.isnan(feed[name]).any():
                raise RequestError(
                    f"input {name!r} {'holds NaN' if name in feed else 'is missing'}",
                    fix=f"Give finite arrays for {', '.join(wanted)}, preprocessed as the model expects.",
                )
        yield dict(zip(names, (float(v) for v in session.run(names, {name: feed[name] for name in wanted}))))
