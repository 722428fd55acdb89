"""Position ids as an input of a language model: kept tokens stay where they were, though fewer stand before them.

Found where they are read: the angles of rotary embeddings (Su et al., RoFormer), tables of their sines or of learned
positions, and the operators that rotate. A graph that counts its positions itself is given an input in their place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ...errors import GraphError
from ..ir_tools.attention import CONTRIB
from ..ir_tools.builder import Builder
from ..ir_tools.walk import FLOATS, Walk, array, attribute, dims
from .bias import inputs_of, rotates

NAME = "position_ids"
# Operators that leave the numbers of their first input what they are.
_SAME = frozenset({"Cast", "Expand", "Identity", "Reshape", "Squeeze", "Tile", "Transpose", "Unsqueeze"})
# And those that make an angle of a position, with constants.
_ANGLES = frozenset({"Add", "Div", "Einsum", "MatMul", "Mul"})
# Input of position ids, by operator.
_ROTARY = {("", "RotaryEmbedding"): 3, (CONTRIB, "RotaryEmbedding"): 1, (CONTRIB, "GroupQueryAttention"): 9}


@dataclass(frozen=True)
class Read:
    """A place where positions are read.

    Attributes:
        node: it reads `value` as its input `index`.
        value: integers, or floats that count.
        source: where these come from: a graph input, or the same value.
    """

    node: ir.Node
    index: int
    value: ir.Value
    source: ir.Value


def reads(walk: Walk, tokens: set[ir.Value]) -> list[Read]:
    """Every place where the main graph reads positions.

    Args:
        walk: the graph.
        tokens: the graph inputs that the first layer reads: an index that depends on one of them is no position.

    Raises:
        GraphError: positions are constants, or have several rows for each token.
    """
    found: dict[tuple[ir.Node, int], Read] = {}
    for node in walk.nodes:
        for read in _of(walk, node, tokens):
            found[read.node, read.index] = read
    return list(found.values())


def refuse_baked(walk: Walk, query: ir.Value, key: ir.Value, tokens: ir.Value) -> None:
    """Refuse a graph whose first layer reads constants of as many rows as it has tokens: its positions, worked out.

    Raises:
        GraphError: so it is.
    """
    count = (dims(tokens) or (None, None))[1]
    for node in walk.sorted(walk.ancestors(query) | walk.ancestors(key)):
        if count is None or count < 2 or node.op_type not in ("Add", "Mul"):
            continue
        for value in node.inputs:
            if value is not None and walk.constant(value) and (dims(value) or ())[-2:-1] == (count,):
                raise _constant(node, value, count)


def replace(walk: Walk, found: list[Read], tokens: ir.Value, offset: int = 0) -> ir.Value:
    """Give the graph the input `NAME` [B, n] int64, and have it read at these places, in place.

    Args:
        walk: the graph.
        found: places whose `source` is no graph input.
        tokens: a graph input [B, n, ...].
        offset: what the graph counts its first token as.

    Returns:
        The input, which may have been there and read by nothing.

    Raises:
        GraphError: the graph has another value of that name.
    """
    graph, shape = walk.graph, tokens.shape
    assert shape is not None
    # A table of one row for all sequences has room for the positions of one.
    lone = any((sizes := dims(read.value)) is not None and (len(sizes) < 2 or sizes[0] == 1) for read in found)
    given = _input(walk, found[0].node, [1 if lone else shape[0], shape[1]])
    for number, read in enumerate(found):
        b = Builder(f"{NAME}.{number}.")
        new = b.op("Add", given, offset) if offset else given
        if len(dims(read.value) or (0, 0)) != 2:
            new = b.op("Reshape", new, b.op("Shape", read.value))
        if read.value.dtype not in (None, ir.DataType.INT64):
            new = b.op("Cast", new, to=int(read.value.dtype))
        new.type, new.shape = read.value.type, given.shape if new is given else read.value.shape
        graph.insert_before(read.node, b.nodes)
        read.node.replace_input_with(read.index, new)
    return given


def rotate_outside(walk: Walk, tokens: ir.Value) -> int:
    """Put the rotation of each GroupQueryAttention before it, in place: inside, ONNX Runtime's prefill reads only the
    first position of a row and counts on. Where it is given no positions, it counts them from the cache's length on:
    the graph gets the input `NAME` [B, n] int64 for them.

    Returns:
        How many.

    Raises:
        GraphError: one normalises queries and keys inside, before it rotates them; or the name is taken.
    """
    rotating = [node for node in walk.nodes if node.domain == CONTRIB and rotates(node)]
    counting = [node for node in rotating if (*node.inputs[9:10], None)[0] is None]
    if counting:
        given = _input(walk, counting[0], tokens.shape)
        for node in counting:
            node.resize_inputs(max(len(node.inputs), 10))
            node.replace_input_with(9, given)
    for node in rotating:
        normed = [one for one in node.inputs[14:16] if one is not None]
        if normed:
            raise GraphError(
                "it normalises queries and keys inside, before it rotates them by positions that count on",
                where=f"node {node.name} (GroupQueryAttention)",
                fix="Export the model with do_rotary=0 and RotaryEmbedding before it, or use --positions keep.",
            )
        _rotated(walk.graph, node)
    return len(rotating)


def _input(walk: Walk, node: ir.Node, shape: Iterable[int | ir.SymbolicDim] | None) -> ir.Value:
    """The input `NAME`, which may have been there and read by nothing; `node` is one that will read it."""
    there = walk.value(NAME)
    if there is not None and (there not in walk.graph.inputs or there.consumers()):
        raise GraphError(
            f"the graph counts its positions itself, and has another value {NAME!r}",
            where=f"node {node.name}",
            fix="Rename that value, or leave positions as they are with --positions keep.",
        )
    given = there or ir.Value(name=NAME)
    assert shape is not None
    given.type, given.shape = ir.TensorType(ir.DataType.INT64), ir.Shape([*shape][:2])
    if there is None:
        walk.graph.inputs.append(given)
    return given


def _rotated(graph: ir.Graph, node: ir.Node) -> None:
    b = Builder(f"{node.outputs[0].name}.rotated.")
    query, key, value = node.inputs[:3]
    cos, sin, positions = (*node.inputs[7:10], None)[:3]
    heads, groups = (int(attribute(node, name, 1)) for name in ("num_heads", "kv_num_heads"))  # type: ignore[call-overload]
    if key is None:
        # All in one: [B, n, (H + 2G) d].
        width = (dims(query) or (None,))[-1]
        if width is None:
            raise GraphError("the width of its packed queries, keys and values is not known", where=f"node {node.name}")
        one = width // (heads + 2 * groups)
        query, key, value = b.ops("Split", query, [heads * one, groups * one, groups * one], axis=-1, n=3)
    turned: list[ir.Value] = []
    for part, count in ((query, heads), (key, groups)):
        attributes = {"num_heads": count, "interleaved": attribute(node, "rotary_interleaved", 0)}
        rotary = ir.node("RotaryEmbedding", [part, positions, cos, sin], attributes, domain=CONTRIB)
        rotary.name = f"{node.name or node.outputs[0].name}.rotary_{len(turned)}"
        rotary.outputs[0].name = f"{rotary.name}.out"
        assert part is not None and node.inputs[0] is not None
        rotary.outputs[0].type, rotary.outputs[0].shape = node.inputs[0].type, part.shape
        b.nodes.append(rotary)
        turned.append(rotary.outputs[0])
    graph.insert_before(node, b.nodes)
    for index, new in enumerate((*turned, value)):
        node.replace_input_with(index, new)
    for index in (7, 8, 9):
        if index < len(node.inputs):
            node.replace_input_with(index, None)
    node.attributes["do_rotary"] = ir.AttrInt64("do_rotary", 0)


def _of(walk: Walk, node: ir.Node, tokens: set[ir.Value]) -> Iterator[Read]:
    at = _ROTARY.get((node.domain, node.op_type))
    if at is not None:
        given = node.inputs[at] if len(node.inputs) > at else None
        if given is not None:
            yield from _read(walk, node, at, given)
        # In the standard operator the tables of sines are of these tokens, gathered before it.
    elif node.domain == "" and node.op_type in ("Cos", "Sin") and node.inputs[0] is not None:
        yield from _angle(walk, node)
    elif node.domain == "" and node.op_type == "Gather" and _is_table(walk, node.inputs[0]):
        index = node.inputs[1]
        if index is None or index in tokens or inputs_of(walk, index, values=True) & tokens:
            return
        if not walk.constant(index) or _counts(index):
            yield from _read(walk, node, 1, index)


def _angle(walk: Walk, node: ir.Node) -> list[Read]:
    """Where the position in an angle becomes a float, walked up from its Cos or Sin."""
    found: list[Read] = []
    seen: set[ir.Node] = set()
    waiting, joint = [(node, 0)], node
    while waiting:
        node, index = waiting.pop()
        value = node.inputs[index]
        assert value is not None
        if value.dtype not in FLOATS or value in walk.graph.inputs or _of_range(value):
            found += _read(walk, node, index, value)
            continue
        above = value.producer()
        if above is None or above in seen:
            continue
        seen.add(above)
        if above.op_type == "Concat":
            joint = above
            waiting += [(above, at) for at in range(len(above.inputs))]
        elif above.op_type in _ANGLES:
            free = [i for i, one in enumerate(above.inputs) if one is not None and not walk.learned(one)]
            if not free:
                # Sizes alone: a range over the tokens is learned too, and is no weight.
                free = [i for i, one in enumerate(above.inputs) if one is not None and not walk.constant(one)]
            if len(free) == 1:
                waiting.append((above, free[0]))
        elif above.op_type in _SAME:
            waiting.append((above, 0))
    if len({read.source for read in found}) > 1:
        raise GraphError(
            "it joins rotary angles of different positions: they have several rows for each token",
            where=f"node {joint.name or joint.outputs[0].name} ({joint.op_type})",
            fix="Export the model with one row of positions, position_ids [B, n]; or leave them as they are with "
            "--positions keep.",
        )
    return found


def _of_range(value: ir.Value) -> bool:
    node = value.producer()
    return node is not None and node.op_type == "Range"


def _read(walk: Walk, node: ir.Node, index: int, value: ir.Value) -> Iterator[Read]:
    source = value
    while (above := source.producer()) is not None and above.op_type in _SAME and above.inputs[0] is not None:
        source = above.inputs[0]
    if source not in walk.graph.inputs:
        source = value
    if walk.constant(source):
        raise _constant(node, value, (dims(value) or (None,))[-1])
    yield Read(node, index, value, source)


def _constant(node: ir.Node, value: ir.Value, count: int | None) -> GraphError:
    return GraphError(
        f"the positions of its {count} tokens are constants in the file",
        where=f"node {node.name or node.op_type}, tensor {value.name}",
        fix="Export the model with an input position_ids or a dynamic length; or leave its positions as they are "
        "with --positions keep: then kept tokens move together.",
    )


def _is_table(walk: Walk, value: ir.Value | None) -> bool:
    sizes = dims(value)
    return (
        value is not None and walk.constant(value) and value.dtype in FLOATS and sizes is not None and len(sizes) == 2
    )


def _counts(value: ir.Value) -> bool:
    """Whether a constant index counts up, as positions do, where a type of tokens is the same everywhere."""
    held = array(value)
    return held is not None and held.size > 1 and bool((np.diff(held.reshape(-1)) == 1).all())
