"""Compressors whose slots have more channels than tokens: the weights downstream must be trained for that width.

A model that has such weights is exported with a *placeholder* between the seam and the weights, [B, N, D] ->
[B, N, D'], so that its graph is valid without a compressor. What it computes does not matter: a compressor replaces it.
"""

from __future__ import annotations

import onnx_ir as ir

from ...errors import RequestError
from ..compressors.base import Case, Compressor, width
from ..ir_tools.extract import values_by_name
from ..seams.seam import Seam


def replaced_value(model: ir.Model, seam: Seam, compressor: Compressor, case: Case) -> ir.Value:
    """The value that the slots replace: the seam's own tensor, or the output of its placeholder.

    Raises:
        RequestError: the nodes that read it take another number of channels than a slot has.
    """
    values = values_by_name(model.graph)
    value, wide, name = values[seam.tensor], width(compressor, case), compressor.method.name
    where = f"seam {seam.name}, tensor {seam.tensor}"
    if seam.placeholder:
        wider = values[seam.placeholder]
        taken = wider.shape[2] if wider.shape is not None else None
        if taken != wide:
            raise RequestError(
                f"{name} outputs {wide} channels, but the weights after this seam take {taken}: they were trained for "
                "another compressor",
                where=where,
                fix="Open the model for this method: Source.prepared(compressor).",
            )
        return wider
    if wide != case.dim and (seam.prefix or value.uses()):
        reader = next(
            (f"{node.op_type} {node.name!r}" for node in value.consumers()), "the prefix token in the same tensor"
        )
        raise RequestError(
            f"{name} outputs {wide} channels, but {reader} takes {case.dim}",
            where=where,
            fix="Use a model with a projector trained for it (of the built-in ones tiny-vlm has one), or a graph that "
            "ends at this tensor; pool leaves the number of channels as it is.",
        )
    return value


def remove_unread(graph: ir.Graph, value: ir.Value) -> None:
    """Remove the node that computes `value`, and nodes upstream that nothing else reads."""
    pending = [value.producer()]
    while pending:
        node = pending.pop()
        if node is None or any(output.uses() or output.is_graph_output() for output in node.outputs):
            continue
        pending += [source.producer() for source in node.inputs if source is not None]
        graph.remove(node, safe=True)
