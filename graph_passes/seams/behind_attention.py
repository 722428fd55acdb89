"""Seams inside a layer: ``encoder_attention:<i>``, behind the attention of layer i and in front of its feed-forward.

That is where ToMe, EViT, FOLDER and A-ToMe compress. The place is the first residual sum behind the layer's attention,
if everything that leaves the layer is computed from that sum alone. It is looked for when it is asked for: it is valid
where the seam behind the same layer is, has the same tokens, and reads the signals of the layer's own attention.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir

from ...errors import RequestError, nearest
from ..ir_tools.walk import Walk, dims
from .facts import Facts
from .scopes import Scopes
from .seam import Seam
from .structure import is_sum, residual_sums, unrounded

_NAME = re.compile(r"encoder_attention:(\d{1,9})")


def behind_attention(model: ir.Model, name: str, seams: Sequence[Seam]) -> Seam | None:
    """The seam of a name; None for a name of another kind.

    Args:
        model: the graph.
        name: of the seam.
        seams: all that were found, with those behind layers.

    Raises:
        RequestError: no such layer was found, or its attention and its feed-forward are not one behind the other.
    """
    hit = _NAME.fullmatch(name)
    if hit is None:
        return None
    layers = {f"encoder_attention:{one.name[14:]}": one for one in seams if one.name.startswith("encoder_layer:")}
    if name not in layers:
        why = nearest(name, layers, kind="seams of this kind")
        raise RequestError(
            f"seam {name!r} was not found in this graph", where=f"graph {model.graph.name or 'main'}", fix=why
        )
    layer = layers[name]
    walk = Walk(model)
    facts, scopes = Facts(walk, 0 if layer.prefix else layer.tokens), Scopes(walk)
    value = _first_sum(facts, scopes, layer)
    if value is None:
        raise RequestError(
            f"the attention and the feed-forward of layer {hit[1]} do not stand one behind the other in this graph",
            where=f"module {layer.module or 'unknown'}, tensor {layer.tensor}",
            fix=f"Take the seam behind the layer: {layer.name}.",
        )
    module = _reader(scopes, layer.module, value)
    found = facts.seam(name, value, layer.found_by, module=module, side="input", grid=layer.grid, why=layer.why)
    return replace(found, merged_rows=layer.merged_rows)


def _first_sum(facts: Facts, scopes: Scopes, layer: Seam) -> ir.Value | None:
    """The first residual sum behind the only attention of a layer, if all that leaves the layer comes through it."""
    walk, inside = facts.walk, set(scopes.inside(layer.module))
    end = walk.value(layer.tensor)
    attended = [one.node for one in facts.attentions if one.node in inside]
    if end is None or len(attended) != 1:
        return None
    chain, after = residual_sums(walk), walk.descendants(attended[0].outputs[0]) & inside & walk.ancestors(end)
    sums = [value for value in chain if value.producer() in after and is_sum(chain, value)]
    if not sums or unrounded(end) in sums[:1] or dims(sums[0]) != dims(end):
        return None
    producer = sums[0].producer()
    around = {node for value in scopes.entering(layer.module) for node in _below(walk, value, inside, producer)}
    return None if end.producer() in around else sums[0]


def _below(walk: Walk, value: ir.Value, inside: set[ir.Node], without: ir.Node | None) -> set[ir.Node]:
    """The nodes of a layer that use a value, directly or not, and not only through `without`."""
    return (walk.descendants(value, until=lambda node: node is without or node not in inside) & inside) - {without}


def _reader(scopes: Scopes, layer: str, value: ir.Value) -> str:
    """The outermost module in a layer that reads this value alone, such as the norm in front of the feed-forward."""
    inner: dict[str, None] = {}
    todo = [value]
    while todo:
        for node in todo.pop().consumers():
            # Another precision puts casts in front of a module, and a quantised graph its rounding.
            todo += [output for output in node.outputs if unrounded(output) is value]
            inner |= dict.fromkeys(path for path in scopes.around(node) if path.startswith(f"{layer}."))
    paths = sorted(inner, key=lambda path: path.count("."))
    return next((path for path in paths if [unrounded(one) for one in scopes.entering(path)] == [value]), "")
