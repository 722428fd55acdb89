"""Where slots with more channels than tokens may go: behind them must be weights that were made for that width.

A model that has such weights is exported with a *placeholder* between the seam and them, so that its graph is sound
before a compressor is in it: [B, N, D] -> [B, N, D'], whatever it computes. The compressor takes its place.
"""

from __future__ import annotations

import onnx_ir as ir

from ...errors import RequestError
from ..compressors.base import Case, Compressor, width
from ..ir_tools.extract import values_by_name
from ..seams.seam import Seam


def replaced_value(model: ir.Model, seam: Seam, compressor: Compressor, case: Case) -> ir.Value:
    """The value whose readers will read the slots: the seam's own, or the one behind its placeholder.

    Raises:
        RequestError: what reads it takes another number of channels than a slot has.
    """
    values = values_by_name(model.graph)
    value, wide, name = values[seam.tensor], width(compressor, case), compressor.method.name
    where = f"seam {seam.name}, tensor {seam.tensor}"
    if seam.placeholder:
        behind = values[seam.placeholder]
        taken = behind.shape[2] if behind.shape is not None else None
        if taken != wide:
            raise RequestError(
                f"{name} gives {wide} channels, and the weights behind this seam take {taken}: they were made for "
                "another compressor",
                where=where,
                fix="Open the model for this method: Source.prepared(compressor).",
            )
        return behind
    if wide != case.dim and (seam.prefix or value.uses()):
        reader = next((f"{node.op_type} {node.name!r}" for node in value.consumers()), "its prefix token")
        raise RequestError(
            f"{name} gives {wide} channels, and {reader}, which reads this tensor or lies in it, takes {case.dim}",
            where=where,
            fix="It needs a projector trained for it, which of the built-in models tiny-vlm has, or a graph that ends "
            "at this tensor. pool keeps the channels as they are.",
        )
    return value


def remove_unread(graph: ir.Graph, value: ir.Value) -> None:
    """Remove the node that makes `value`, and those that only led there, where nothing reads them any more."""
    pending = [value.producer()]
    while pending:
        node = pending.pop()
        if node is None or any(output.uses() or output.is_graph_output() for output in node.outputs):
            continue
        pending += [source.producer() for source in node.inputs if source is not None]
        graph.remove(node, safe=True)
