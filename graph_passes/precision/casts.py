"""A Cast behind what computes a value."""

from __future__ import annotations

import onnx_ir as ir


def add_cast(graph: ir.Graph, value: ir.Value, to: ir.DataType, name: str) -> ir.Value:
    """`value` in another type, as a value of that name; its Cast follows the producer, or begins the graph."""
    producer = value.producer()
    # With its producer's metadata a Cast belongs to the same module, so module boundaries do not move.
    metadata = dict(producer.metadata_props) if producer is not None else {}
    node = ir.node("Cast", [value], {"to": int(to)}, name=f"cast/{name}", metadata_props=metadata)
    output = node.outputs[0]
    output.name, output.type, output.shape = name, ir.TensorType(to), value.shape
    if producer is None:
        graph.insert_before(graph[0], node)
    else:
        graph.insert_after(producer, node)
    return output
