"""Edit a model in place so that a failure in the middle leaves it as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import onnx_ir as ir

from .walk import refuse_unsorted


@contextmanager
def all_or_nothing(model: ir.Model) -> Iterator[ir.Model]:
    """A clone to edit, which `model` becomes when the block ends, or which is dropped where the block raises.

    Weights are shared, never read or copied. After the block `model.graph` is another object: `ir.Value` and `ir.Node`
    objects taken from the model before still describe the graph as it was, so look them up again by name. Functions
    can be added in the block; those that the model had stay the same objects, so edits of their bodies are dropped.

    Raises:
        GraphError: a node reads what a later node computes.
    """
    refuse_unsorted(model.graph)
    clone = model.clone()
    yield clone
    model.graph, model.ir_version = clone.graph, clone.ir_version
    model.metadata_props.clear()
    model.metadata_props.update(clone.metadata_props)
    for identifier, function in clone.functions.items():
        model.functions.setdefault(identifier, function)
