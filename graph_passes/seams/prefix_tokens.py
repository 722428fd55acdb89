"""Which tokens of a sequence are not patches: CLS, distillation and register tokens, proved by the graph.

One pass in the order of the graph notes for every value how many parameters it begins and ends with, and along which
axis: so each node is looked at once, and what a slice leaves of a prefix is known behind any number of layers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import onnx_ir as ir

from ..ir_tools.token_flow import prefix_dropped
from ..ir_tools.walk import FLOATS, Walk, attribute, dims, integers, read_in_subgraphs

_MOST_LEARNED = 33  # No encoder is known with more tokens of its own besides its patches.
_LONGEST = 65536  # Indices in a list of picked tokens.
_LAYOUT = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten"})


@dataclass(frozen=True)
class Ends:
    """Axis `axis` of a value has `length` entries; the first `front` and the last `back` are parameters."""

    axis: int
    length: int
    front: int
    back: int

    def cut(self, start: int, end: int) -> Ends:
        """Entries [start, end)."""
        n = end - start
        front = min(max(self.front - start, 0), n)
        back = min(max(self.back - (self.length - end), 0), n)
        return Ends(self.axis, n, front, back)


class PrefixTokens:
    """The ends of all sequences of a graph, as long as it is not edited."""

    def __init__(self, walk: Walk) -> None:
        self.walk = walk
        self._ends: dict[ir.Value, Ends] = {}
        for node in walk.nodes:
            for i, output in enumerate(node.outputs):
                found = None if walk.learned(output) else self._of(node, i)
                if found is not None and (found.front or found.back):
                    self._ends[output] = found

    def learned(self, value: ir.Value, length: int | None = None) -> tuple[int, int]:
        """Leading and trailing tokens that are parameters, not patches.

        Of a sequence [B, n, D] or [n, D]; with `length`, of the sequence of so many tokens that `value` comes from.

        Proved by what the sequence is computed from, or by an upstream Concat of as many tokens that puts parameters
        before (or after) computed ones, else by a downstream Slice that drops leading tokens. Nothing is concluded from
        names, or from the length being a square plus one.
        """
        length = length or _length(value)
        own = self._ends.get(value)
        if own is not None and own.length == length and own.axis == len(dims(value) or ()) - 2:
            return own.front, own.back
        before, after = self.walk.ancestors(value), self.walk.descendants(value)
        for node in reversed(self.walk.sorted(before)):
            ends = self._ends.get(node.outputs[0])
            joins = node.op_type in ("Concat", "ConcatFromSequence", "Slice")
            if joins and ends is not None and ends.length == length and ends.front + ends.back < length:
                return ends.front, ends.back
        for node in self.walk.sorted(node for node in after if node.op_type == "Slice"):
            dropped = prefix_dropped(node)
            if dropped and _length(node.inputs[0]) == length:
                return dropped, 0
        return 0, 0

    def unexplained(self, value: ir.Value, prefix: int) -> str:
        """Why a sequence may not be taken for patches behind `prefix` others; empty if it may.

        It has a few more than a convolution gives places, or than what a node upstream made it from.
        """
        length = _length(value) or 0
        before = self.walk.ancestors(value)
        tokens = length - prefix
        counts = [n for node in before if node.op_type == "Conv" and (n := _places(node)) is not None]
        patches = max((n for n in counts if n <= tokens), default=0)
        what = f"a convolution upstream gives {patches} places"
        if not _few_more(patches, tokens):
            grown = next((found for node in self.walk.sorted(before) if (found := self._grown(node, tokens))), None)
            if grown is None:
                return ""
            patches, node = grown
            what = f"{node.op_type} {node.name or node.outputs[0].name!r} upstream makes them from {patches}"
        return (
            f"it has {tokens} tokens where {what}, and it is not shown where the other {tokens - patches} stand (CLS, "
            "registers, padding); export the model again with torch.onnx.export(..., dynamo=True), its parameters "
            "joined to the tokens by torch.cat"
        )

    def _grown(self, node: ir.Node, tokens: int) -> tuple[int, ir.Node] | None:
        """The length of what a node made `tokens` tokens from, by adding a few of which nothing is known."""
        output = node.outputs[0]
        if _length(output) != tokens or output.dtype not in FLOATS or self.walk.learned(output):
            return None
        parts = _joined(node)
        around = (x for x in read_in_subgraphs(node) if x.producer() is None or x.producer() in self.walk.order)
        read = parts if parts is not None else [*node.inputs, *around]
        computed = [x for x in read if x is not None and x.dtype in FLOATS and not self.walk.learned(x)]
        lengths = [_length(x) for x in computed]
        if tokens in lengths or any(n is None for n in lengths):
            return None
        largest = max((n for n in lengths if n is not None), default=0)
        others = [x for x, n in zip(computed, lengths) if n != largest]
        if not _few_more(largest, tokens) or (parts is not None and others and all(map(self._of_a_grid, others))):
            return None
        return largest, node

    def _of_a_grid(self, value: ir.Value) -> bool:
        """Whether the tokens are the places of a convolution or a pooling, as those of a smaller scale are."""
        nodes = self.walk.ancestors(value)
        steps = [node for node in nodes if node.op_type in ("Conv", "AveragePool", "MaxPool")]
        return any(_places(node) == _length(value) for node in steps)

    def _of(self, node: ir.Node, output: int) -> Ends | None:
        parts = _joined(node)
        if parts is not None:
            return self._joined(node, parts)
        source = node.inputs[0] if node.inputs else None
        own = self._read(source)
        shape = dims(node.outputs[output])
        if own is not None and shape is not None:
            if node.op_type in ("Slice", "Split", "Gather"):
                return _cut(node, output, own, dims(source) or ())
            if node.op_type == "Transpose":
                perm = attribute(node, "perm", tuple(reversed(range(len(shape)))))
                return replace(own, axis=tuple(perm).index(own.axis))  # type: ignore[arg-type]
            if node.op_type in _LAYOUT:
                axis = _same_place(dims(source) or (), shape, own)
                return None if axis is None else replace(own, axis=axis)
        return self._aligned(node, shape)

    def _read(self, value: ir.Value | None) -> Ends | None:
        return None if value is None else self._ends.get(value)

    def _aligned(self, node: ir.Node, shape: tuple[int | None, ...] | None) -> Ends | None:
        """Of the operand with the most parameters, where the output has as many entries at its place."""
        if shape is None:
            return None
        found = []
        for value in node.inputs:
            ends, own = self._read(value), dims(value)
            if ends is None or own is None:
                continue
            axis = ends.axis + len(shape) - len(own)
            if 0 <= axis < len(shape) and shape[axis] == ends.length:
                found.append(replace(ends, axis=axis))
        return max(found, key=lambda ends: ends.front + ends.back, default=None)

    def _joined(self, node: ir.Node, parts: list[ir.Value]) -> Ends | None:
        rank = len(dims(parts[0]) or ()) if parts else 0
        axis = int(attribute(node, "axis", 0)) % max(rank, 1)  # type: ignore[call-overload]
        if rank not in (2, 3) or any(len(dims(x) or ()) != rank for x in parts):
            return None
        ends: list[Ends] = []
        for x in parts:
            n = (dims(x) or ())[axis]
            own = self._read(x)
            if self.walk.learned(x) and n is not None:
                ends.append(Ends(axis, n, n, n))
            elif own is not None and own.axis != axis:
                return own
            elif n is None or (axis != rank - 2 and own is None and axis == rank - 1):
                return None
            else:
                ends.append(own or Ends(axis, n, 0, 0))
        front = _run([(x.length, x.front) for x in ends])
        return Ends(axis, sum(x.length for x in ends), front, _run([(x.length, x.back) for x in reversed(ends)]))


def _joined(node: ir.Node) -> list[ir.Value] | None:
    """What is joined along an axis, of a Concat or a sequence that is joined; else None."""
    if node.op_type == "Concat":
        return [x for x in node.inputs if x is not None]
    if node.op_type != "ConcatFromSequence" or attribute(node, "new_axis", 0) or node.inputs[0] is None:
        return None
    made = node.inputs[0].producer()
    return (
        [x for x in made.inputs if x is not None] if made is not None and made.op_type == "SequenceConstruct" else None
    )


def _cut(node: ir.Node, output: int, ends: Ends, source: tuple[int | None, ...]) -> Ends | None:
    """What a Slice, Split or Gather leaves of the ends."""
    rank, n = len(source), ends.length
    if node.op_type == "Slice":
        found = [integers(x) if x is not None else None for x in (*node.inputs[1:], None, None)]
        starts, finishes, axes, steps = (found[0], found[1], found[2], found[3])
        if starts is None or finishes is None:
            return None
        where = [axis % rank for axis in axes] if axes is not None else list(range(len(starts)))
        if ends.axis not in where:
            return ends
        at = where.index(ends.axis)
        start, end = (max(0, min(i + n if i < 0 else i, n)) for i in (starts[at], finishes[at]))
        return ends.cut(start, end) if start < end and (steps is None or steps[at] == 1) else None
    if int(attribute(node, "axis", 0)) % rank != ends.axis:  # type: ignore[call-overload]
        return ends if node.op_type == "Split" or len(dims(node.inputs[1]) or ()) == 1 else None
    if node.op_type == "Split":
        sizes = [(dims(x) or ())[ends.axis] for x in node.outputs]
        if None in sizes:
            return None
        start = sum(size or 0 for size in sizes[:output])
        return ends.cut(start, start + (sizes[output] or 0))
    tensor = None if node.inputs[1] is None else ir.convenience.get_const_tensor(node.inputs[1])
    if (
        tensor is None
        or len(tensor.shape) != 1
        or not 0 < tensor.size <= _LONGEST
        or isinstance(tensor, ir.ExternalTensor)
    ):
        return None
    kept = [int(i) + n if i < 0 else int(i) for i in tensor.numpy()]
    own = [i < ends.front or i >= n - ends.back for i in kept]
    return Ends(ends.axis, len(own), _leading(own), _leading(own[::-1]))


def _leading(flags: list[bool]) -> int:
    return flags.index(False) if False in flags else len(flags)


def _same_place(source: tuple[int | None, ...], target: tuple[int | None, ...], ends: Ends) -> int | None:
    """The axis of a reshaped value that has the same entries: as many, with as much to its right."""
    right = source[ends.axis + 1 :]
    for axis, size in enumerate(target):
        rest = target[axis + 1 :]
        if size == ends.length and None not in (*right, *rest) and math.prod(rest) == math.prod(right):  # type: ignore[arg-type]
            return axis
    return None


def _run(parts: list[tuple[int, int]]) -> int:
    """Parameters before the first computed token, over parts of (length, leading parameters)."""
    total = 0
    for length, front in parts:
        total += front
        if front < length:
            break
    return total


def _few_more(few: int, many: int) -> bool:
    return few < many < min(2 * few, few + _MOST_LEARNED)


def _places(node: ir.Node) -> int | None:
    places = (dims(node.outputs[0]) or ())[2:]
    return None if not places or None in places else math.prod(places)  # type: ignore[arg-type]


def _length(value: ir.Value | None) -> int | None:
    shape = dims(value)
    return shape[-2] if shape is not None and len(shape) in (2, 3) else None
