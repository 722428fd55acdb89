"""Follow the batch and the tokens by name: where rows are joined, each may not choose tokens of its own.

Each axis of a value is a list of factors (name, size), the slowest first: 4 frames of 16 tokens on one axis are
[("B", 4), ("N", 16)]. Reshapes regroup factors, so an axis that was merged and split again is known again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import onnx_ir as ir

from ...errors import GraphError
from ..ir_tools.contrib_shapes import operand_order
from ..ir_tools.token_flow import reduced_axes
from ..ir_tools.walk import Walk, attribute, dims, integers

Factor = tuple[str, int]
Named = tuple[tuple[Factor, ...], ...]
_DYNAMIC = 10**9 + 7  # A prime that stands for a batch whose size is not known.
_PRODUCTS = ("MatMul", "FusedMatMul")
_ATTENTIONS = ("Attention", "MultiHeadAttention")
_REDUCES = ("ArgMax", "ArgMin")
_PICKS = ("Gather", "Slice", "Split")


def refuse_joined_rows(walk: Walk, tensor: str) -> None:
    """Refuse a graph downstream of `tensor` [B, n, D] in which rows of the batch meet at one place of the token axis.

    Each row keeps other tokens, so slot j of one row is another place than slot j of the next: attention along frames,
    or a difference of frames, would mix places that do not belong together. Rows whose tokens follow each other on one
    axis may attend to each other.

    Raises:
        GraphError: the node that joins them.
    """
    value = walk.value(tensor)
    shape = dims(value)
    if value is None or shape is None or len(shape) != 3 or shape[0] == 1 or shape[1] is None:
        return
    named: dict[ir.Value, Named] = {value: (_factor("B", shape[0]), _factor("N", shape[1]), ())}
    picks: dict[ir.Value, frozenset[object]] = {value: frozenset()}
    for node in walk.sorted(walk.descendants(value)):
        joined = next((True for x, axis in _mixed(node, named) if _rows_alone(named[x], axis)), False)
        taken = [picks[x] for x in node.inputs if x in picks and x in named and _has(named[x], "N")]
        outputs = follow(node, named)
        for output, axes in zip(node.outputs, outputs):
            named[output] = axes
        apart = node.op_type in _PICKS and any(
            x in named and _rows_alone(named[x], _picked_axis(node, x)) for x in node.inputs[:1] if x is not None
        )
        for i, output in enumerate(node.outputs):
            picks[output] = frozenset({(node, i)}) if apart else frozenset().union(*taken)
        # Joining whole rows on the batch or the token axis keeps them apart.
        met = len(set(taken)) > 1 and not (node.op_type == "Concat" and _keeps_apart(node, named))
        if joined or met:
            name = node.name or node.outputs[0].name
            raise GraphError(
                f"rows of the batch are joined downstream of the seam: {node.op_type} {name!r} mixes what is in the "
                "same slot of several rows (frames, crops), and each row keeps other tokens there",
                where=f"graph {walk.graph.name or 'main'}, tensor {tensor}",
                fix="Choose a seam downstream of that node (`tokexport inspect SOURCE` lists them), or export with "
                "one row in the batch.",
            )


def batch_on_tokens(walk: Walk, value: ir.Value) -> str:
    """Why `value` is not [B, N, D] but [N, B, D], or [B N, D] with a batch above one; empty where it is neither."""
    shape = dims(value)
    if shape is None or len(shape) not in (2, 3) or shape[0] == 1:
        return ""
    named: dict[ir.Value, Named] = {}
    for source in walk.graph.inputs:
        given = dims(source)
        if given is not None and len(given) > 2 and not source.is_initializer():
            # A batch of one is followed as if it were larger: sizes of one say nothing about an axis.
            named[source] = (_factor("B", given[0]), *(((("", d if d is not None else 0),)) for d in given[1:]))
    if len(shape) == 2:
        named = {source: axes for source, axes in named.items() if axes[0][0][1] != 1}
    if not named:
        return ""
    if len(shape) == 3 and shape[1] == 1:
        batches = {(dims(source) or (None,))[0] for source in named}
        return _WRONG_AXIS if batches == {1} else ""
    for node in walk.sorted(walk.ancestors(value)):
        for output, axes in zip(node.outputs, follow(node, named)):
            named[output] = axes
    found = named.get(value)
    if len(shape) == 2:
        return _ROWS_JOINED if found and _any(found[0], "B") else ""
    return _WRONG_AXIS if found and not _any(found[0], "B") and _any(found[1], "B") else ""


_WRONG_AXIS = (
    "tokens run along axis 0 and the batch along axis 1 ([N, B, D]); a compressor takes [B, N, D]. End the model with "
    ".permute(1, 0, 2) and export it again"
)
_ROWS_JOINED = (
    "the tokens of several rows of the batch lie on one axis ([B N, D]). Export the model with one row; or, where they "
    "are one sequence (frames of one video), end the model with .unsqueeze(0) and export it again"
)


def follow(node: ir.Node, named: Mapping[ir.Value, Named]) -> list[Named]:
    """The named axes of each output of a node; without names where they cannot be told."""
    ranks = [len(dims(output) or ()) for output in node.outputs]
    source = node.inputs[0] if node.inputs else None
    if not any(x in named for x in node.inputs if x is not None) or node.op_type in ("Shape", "Size"):
        return [((),) * rank for rank in ranks]
    axes = _operator_axes(node, named, source)
    if axes is None:
        inputs = [x for x in node.inputs if x is not None]
        axes = _aligned([named[x] for x in inputs if x in named], ranks[0])
    return [_sized(axes, dims(output)) for output in node.outputs]


def _operator_axes(node: ir.Node, named: Mapping[ir.Value, Named], source: ir.Value | None) -> Named | None:
    """Axes of the first output where the operator moves them; None: they stay, aligned at the right."""
    own = named.get(source) if source is not None else None
    op = node.op_type
    if op in _PRODUCTS:
        return _product(node, named)
    if op == "Einsum":
        return _einsum(node, named)
    if not own:
        return None  # Of a value of unknown rank, or a scalar, no axis is known.
    rank = len(own)
    if op == "Transpose":
        perm: Any = attribute(node, "perm", tuple(reversed(range(rank))))
        return tuple(own[i] for i in perm)
    if op in ("Reshape", "Flatten", "Squeeze", "Unsqueeze"):
        return _regrouped(own, dims(source), dims(node.outputs[0]))
    if op == "Gather":
        at = int(attribute(node, "axis", 0)) % rank  # type: ignore[call-overload]
        width = len(dims(node.inputs[1]) or ())
        kept = own[at] if width else ()
        return (*own[:at], *([kept] + [()] * (width - 1) if width else []), *own[at + 1 :])
    axes = reduced_axes(node, rank) if op.startswith("Reduce") or op in _REDUCES else None
    if axes is not None and not int(attribute(node, "keepdims", 1)):  # type: ignore[call-overload]
        return tuple(factors for i, factors in enumerate(own) if i not in axes)
    if op.startswith("Conv"):
        return (own[0], (), *own[2:])
    if op in _ATTENTIONS or (op == "Gemm" and int(attribute(node, "transA", 0)) == 0):  # type: ignore[call-overload]
        return (*own[:-1], ())
    return None


def _product(node: ir.Node, named: Mapping[ir.Value, Named]) -> Named:
    sides: list[Named] = []
    for side, value in enumerate(node.inputs[:2]):
        axes = named.get(value, ((),) * len(dims(value) or ()))  # type: ignore[arg-type]
        if not axes:
            return ()  # Of an unknown rank.
        sides.append(tuple(axes[i] for i in operand_order(node, side, len(axes))))
    left, right = sides
    rank = max(len(left), len(right)) - 2
    outer = _aligned([left[:-2], right[:-2]], max(rank, 0))
    rows = (left[-2],) if len(left) > 1 else ()
    columns = (right[-1],) if len(right) > 1 else ()
    return (*outer, *rows, *columns)


def _einsum(node: ir.Node, named: Mapping[ir.Value, Named]) -> Named:
    left, _, result = str(attribute(node, "equation", None) or "").replace(" ", "").partition("->")
    found: dict[str, tuple[Factor, ...]] = {}
    for term, value in zip(left.split(","), node.inputs):
        for letter, factors in zip(term, named.get(value, ())):  # type: ignore[arg-type]
            found[letter] = found.get(letter) or factors
    return tuple(found.get(letter, ()) for letter in result)


def _aligned(operands: list[Named], rank: int) -> Named:
    """Names of operands that broadcast; an axis that has two is called by both."""
    out: list[tuple[Factor, ...]] = [()] * rank
    for axes in operands:
        for i, factors in enumerate(axes[-rank:] if rank else ()):
            at = rank - len(axes[-rank:]) + i
            if not _names(out[at]):
                out[at] = factors
            elif _names(factors) and _names(factors) != _names(out[at]):
                out[at] = (("".join(sorted(_names(factors) | _names(out[at]))), math.prod(n for _, n in factors)),)
    return tuple(out)


def _regrouped(own: Named, source: tuple[int | None, ...] | None, target: tuple[int | None, ...] | None) -> Named:
    """Factors dealt out anew over the sizes of a reshape; all names on all axes where they do not fit."""
    everywhere = "".join(sorted(set().union(*(_names(factors) for factors in own))))
    if source is None or target is None:
        return ()
    flat: list[Factor] = []
    for factors, size in zip(own, source):
        wanted = _DYNAMIC if size is None else size
        held = factors if math.prod(n for _, n in factors) == wanted else (("".join(sorted(_names(factors))), wanted),)
        flat += [factor for factor in held if factor[1] != 1]
    total = math.prod(n for _, n in flat)
    known = math.prod(size for size in target if size is not None)
    if list(target).count(None) > 1 or (known and total % known):
        return tuple(((everywhere, size or _DYNAMIC),) for size in target)
    sizes = [total // known if size is None and known else size or 0 for size in target]
    out: list[tuple[Factor, ...]] = []
    for size in sizes:
        taken: list[Factor] = []
        left = size
        while left > 1 and flat:
            name, n = flat[0]
            step = math.gcd(n, left)
            if step == 1 or (n != step and left != step):
                return tuple(((everywhere, size),) for size in sizes)
            taken.append((name, step))
            left //= step
            flat[0:1] = [(name, n // step)] if n != step else []
        out.append(tuple(taken))
    return tuple(out)


def _mixed(node: ir.Node, named: Mapping[ir.Value, Named]) -> Iterator[tuple[ir.Value, int]]:
    """(input, axis) of every axis along which a node mixes entries."""
    op = node.op_type
    for i, value in enumerate(node.inputs):
        axes = named.get(value)  # type: ignore[arg-type]
        if value is None or not axes:
            continue  # Where a rank is unknown, the proof of the downstream graph refuses.
        rank = len(axes)
        if op in _PRODUCTS and rank > 1:
            yield value, operand_order(node, i, rank)[-1 if i == 0 else -2]
        elif op in _ATTENTIONS and i < 3:
            yield value, rank - 2
        elif op == "Einsum":
            left, _, result = str(attribute(node, "equation", None) or "").replace(" ", "").partition("->")
            yield from ((value, k) for k, letter in enumerate(left.split(",")[i]) if letter not in result)
        elif i:
            continue
        elif op in ("Softmax", "LogSoftmax", "Hardmax", "TopK"):
            yield value, int(attribute(node, "axis", -1)) % rank  # type: ignore[call-overload]
        elif op.startswith("Reduce") or op in _REDUCES:
            yield from ((value, axis) for axis in reduced_axes(node, rank) or range(rank))
        elif op.endswith("Normalization") and "Batch" not in op:
            first = int(attribute(node, "axis", -1)) % rank  # type: ignore[call-overload]
            yield from ((value, axis) for axis in range(first, rank))
        elif op == "CumSum":
            yield value, (integers(node.inputs[1]) or (0,))[0] % rank
        elif op.startswith(("Conv", "AveragePool", "MaxPool", "LpPool")):
            yield from ((value, axis) for axis in range(1 if op.startswith("Conv") else 2, rank))


def _picked_axis(node: ir.Node, value: ir.Value) -> int:
    rank = len(dims(value) or ())
    if node.op_type == "Slice":
        axes = integers(node.inputs[3]) if len(node.inputs) > 3 else (0,)
        return (axes or (0,))[0] % max(rank, 1)
    return int(attribute(node, "axis", 0)) % max(rank, 1)  # type: ignore[call-overload]


def _keeps_apart(node: ir.Node, named: Mapping[ir.Value, Named]) -> bool:
    axes = named.get(next(x for x in node.inputs if x in named), ())  # type: ignore[arg-type]
    at = int(attribute(node, "axis", 0)) % max(len(axes), 1)  # type: ignore[call-overload]
    return (bool(axes) and bool(_names(axes[at]))) or (bool(axes) and at < len(axes) - 1)


def _sized(axes: Named, shape: tuple[int | None, ...] | None) -> Named:
    """The axes, with sizes that a slice, a pad or a concat changed."""
    if shape is None or len(shape) != len(axes):
        return axes
    out: list[tuple[Factor, ...]] = []
    for factors, size in zip(axes, shape):
        wanted = _DYNAMIC if size is None else size
        if factors and math.prod(n for _, n in factors) != wanted:
            factors = (("".join(sorted(_names(factors))), wanted),)
        out.append(factors)
    return tuple(out)


def _factor(name: str, size: int | None) -> tuple[Factor, ...]:
    return ((name, _DYNAMIC if size is None else size),)


def _names(factors: tuple[Factor, ...]) -> set[str]:
    return {letter for name, _ in factors for letter in name}


def _any(factors: tuple[Factor, ...], name: str) -> bool:
    return name in _names(factors)


def _has(axes: Named, name: str) -> bool:
    return any(_any(factors, name) for factors in axes)


def _rows_alone(axes: Named, at: int) -> bool:
    """Whether axis `at` holds rows and no tokens, while tokens lie on another axis."""
    if at >= len(axes) or not _any(axes[at], "B") or _any(axes[at], "N"):
        return False
    return any(_any(factors, "N") for i, factors in enumerate(axes) if i != at)
