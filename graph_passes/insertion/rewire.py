"""Let everything that read the tokens of a seam read the compressed ones, and make the graph downstream fit them."""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from ..forms import DOMAIN
from ..ir_tools.extract import values_by_name
from ..ir_tools.walk import unique_name
from .emit import Emitted
from .inserted import Inserted
from .placeholder import remove_unread
from .plan import Insertion


def rewire(model: ir.Model, insertion: Insertion, emitted: Emitted) -> tuple[list[str], Inserted | None]:
    """Move the readers, the graph's outputs and the counts downstream over to what was emitted.

    Args:
        model: the graph that `emitted` was added to.
        insertion: what it was planned as.
        emitted: the new nodes.

    Returns:
        One line for each constant that was rewritten, and the step before as it is named now.
    """
    graph, replaced, slots = model.graph, insertion.replaced, emitted.slots
    for node, index in insertion.uses:
        node.replace_input_with(index, slots)
    before = _take_over_outputs(graph, insertion, slots)
    if replaced is not insertion.tokens:
        remove_unread(graph, replaced)
    if emitted.unsorted:
        graph.sort()
    graph.outputs.extend(emitted.composed[name] for name in insertion.outputs)
    graph.opset_imports.setdefault(DOMAIN, 1)
    return insertion.resize.apply(model, emitted.outputs["kept_indices"]), before


def _take_over_outputs(graph: ir.Graph, insertion: Insertion, slots: ir.Value) -> Inserted | None:
    """A graph output keeps its name, which becomes that of the slots; returns the step before as it is named now."""
    replaced, before = insertion.replaced, insertion.after
    for i, output in enumerate(graph.outputs):
        if output is replaced:
            graph.outputs[i] = slots
            name = unique_name(f"{insertion.tensor}.uncompressed", {*values_by_name(graph)})
            slots.name, replaced.name = replaced.name, name
            before = _renamed(before, slots.name or "", name)
    return before


def _renamed(step: Inserted | None, old: str, new: str) -> Inserted | None:
    """The step with its tokens named `new`, where they were named `old`."""
    if step is None or step.tokens_out != old:
        return step
    outputs = {name: new if value == old else value for name, value in step.node_outputs.items()}
    return replace(step, tokens_out=new, node_outputs=outputs)
