"""Pooling heads: attention of a learned probe to all tokens, as SigLIP ends. Tokens end there, whatever their count."""

from __future__ import annotations

import onnx_ir as ir

from ..ir_tools.attention import pooling_attentions, products
from ..ir_tools.token_flow import NORMS, weight_product
from ..ir_tools.walk import Walk

_LAYOUTS = frozenset({"Reshape", "Squeeze", "Transpose", "Unsqueeze"})


def head_nodes(walk: Walk) -> frozenset[ir.Node]:
    """Nodes that compute keys and values of pooling heads and nothing else, and the layout before their weights."""
    found = {node for attention in pooling_attentions(walk) for node in products(attention)}
    weighed: set[ir.Node] = set()
    for node in reversed(walk.nodes):
        readers = [reader for output in node.outputs for reader in output.consumers()]
        shown = any(output.is_graph_output() for output in node.outputs)
        if node in found or shown or not readers or not set(readers) <= found:
            continue
        if all(reader in weighed for reader in readers):
            own = node.op_type in _LAYOUTS
        else:
            own = len(walk.inputs(node)) == 1 and node.op_type not in NORMS
        if own:
            found.add(node)
            if weight_product(walk, node) or all(reader in weighed for reader in readers):
                weighed.add(node)
    return frozenset(found)
