"""The facts of a graph as plain rows, for `tokexport inspect`."""

from __future__ import annotations

from collections import Counter
from typing import Any

import onnx_ir as ir

from ...errors import GraphError
from ..compressors.blocks.texts import TEXT
from .seam import Seam
from .search import search


def describe(model: ir.Model) -> dict[str, Any]:
    """Plain facts of a graph; reads no weights.

    Returns:
        ``opset``, ``ir_version``, ``producer``, ``inputs`` and ``outputs`` (name, dtype, shape), ``nodes`` (count),
        ``precision`` (dtype of weights -> share of their elements), ``compressors`` in it already (node, method, keep,
        params), ``notes`` on what was seen but not proved, and ``seams``: one row each.
    """
    notes: list[str] = []
    try:
        result = search(model)
    except GraphError as error:
        notes.append(str(error))
        result = search(model, metadata=False)
    return {
        "opset": model.opset_imports.get(""),
        "ir_version": model.ir_version,
        "producer": " ".join(part for part in (model.producer_name, model.producer_version) if part),
        "inputs": [_tensor(value) for value in model.graph.inputs if not value.is_initializer()],
        "outputs": [_tensor(value) for value in model.graph.outputs],
        "nodes": model.graph.num_nodes(),
        "precision": _precision(model),
        "compressors": [_compressor(node) for node in model.graph if "tokexport.method" in node.metadata_props],
        "notes": notes + result.notes + [_follows_text(node) for node in model.graph if _reads_text(node)],
        "seams": [_row(seam) for seam in result.seams],
    }


def _tensor(value: ir.Value) -> dict[str, Any]:
    shape = None if value.shape is None else [dim if isinstance(dim, int) else str(dim) for dim in value.shape]
    return {"name": value.name, "dtype": _dtype(value.dtype), "shape": shape}


def _dtype(data_type: ir.DataType | None) -> str | None:
    if data_type is None:
        return None
    name = data_type.name.lower()
    return {"float": "float32", "double": "float64"}.get(name, name)


def _precision(model: ir.Model) -> dict[str, float]:
    counts: Counter[str] = Counter()
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is not None:
            counts[_dtype(tensor.dtype) or ""] += tensor.size
    total = sum(counts.values())
    return {name: round(count / total, 4) for name, count in counts.most_common() if total}


def _compressor(node: ir.Node) -> dict[str, Any]:
    properties = node.metadata_props
    return {
        "node": node.name or node.outputs[0].name,
        "method": properties["tokexport.method"],
        "keep": properties.get("tokexport.keep"),
        "params": properties.get("tokexport.params"),
    }


def _reads_text(node: ir.Node) -> bool:
    reads = [value for value in node.inputs if value is not None and value.is_graph_input()]
    return "tokexport.method" in node.metadata_props and any(value.name == TEXT for value in reads)


def _follows_text(node: ir.Node) -> str:
    method = node.metadata_props["tokexport.method"]
    return f"{method} chooses by the input {TEXT!r}: the selected tokens are valid for one question, not for a dialogue"


def _row(seam: Seam) -> dict[str, Any]:
    return {
        "seam": seam.name,
        "tensor": seam.tensor,
        "tokens": seam.tokens,
        "dim": seam.dim,
        "batch": seam.batch,
        "prefix": seam.prefix,
        "grid": list(seam.grid) if seam.grid else None,
        "dtype": seam.dtype,
        "signals": sorted(seam.signals),
        "valid": seam.valid,
        "why": seam.why,
        "found_by": seam.found_by,
    }
