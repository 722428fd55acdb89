"""The smallest part of a graph that still fails: it is given A's values, so what went wrong before it is not in it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from ...graph_passes.ir_tools.extract import between, values_by_name
from ...graph_passes.ir_tools.walk import read_in_subgraphs
from ..proof.metrics import Check
from .compare import Threshold, compare
from .inputs import Given
from .matching import Matches
from .scan import Scan
from .sides import Arrays, Feeds, Maker, Side


@dataclass
class Piece:
    """A part of a graph that fails by itself.

    Attributes:
        of: the side that it was cut from, ``a`` or ``b``.
        model: the part.
        inputs: what it is given, by its own names.
        expected: what the other side computes from the same, by the names of the outputs of the part.
        check: the worst of its outputs.
        twin: the part of the other side that computes `expected`, with the names of inputs and outputs of `model`; None
            where the other side has no graph.
        whole: whether it begins at the inputs of the model: no smaller part fails by itself.
        notes: what a user must know of it.
    """

    of: str
    model: ir.Model
    inputs: Arrays
    expected: Arrays
    check: Check
    twin: ir.Model | None = None
    whole: bool = False
    notes: list[str] = field(default_factory=list)


def smallest(a: Side, b: Side, given: Given, matches: Matches, found: Scan, threshold: Threshold) -> Piece | None:
    """The smallest part that gives the first differing value from values that agree; None without a graph to cut.

    Args:
        a: the reference.
        b: the other; it is cut, and where it has no graph, `a` is.
        given: inputs.
        matches: of values.
        found: the first difference.
        threshold: what counts as one.
    """
    cut, other, pairs = b, a, {matches.pairs[name]: name for name in matches.pairs}
    feeds, theirs, of = given.b, given.a, "b"
    if cut.model is None:
        cut, other, pairs, feeds, theirs, of = a, b, dict(matches.pairs), given.a, given.b, "a"
    if cut.model is None:
        return None
    first = found.first if of == "a" else matches.pairs[found.first]
    agree = {name for name in pairs if (check := found.checks.get(name if of == "a" else pairs[name])) and check.ok}
    (expected,) = other.read(theirs, [pairs[first]]).values()
    piece = None
    for border in _borders(cut.model, first, agree):
        values = other.read(theirs, [pairs[name] for name in border]) if border else {}
        inputs = {name: values[pairs[name]] for name in border}
        piece = run_piece(cut.model, of, cut.maker, inputs, feeds, {first: expected}, threshold)
        if not piece.check.ok:
            break
    if piece is None or piece.check.ok:
        return None
    piece.whole = not set(piece.inputs) - set(cut.inputs)
    piece.twin = twin(other, piece, pairs)
    return piece


def run_piece(
    graph: ir.Model, of: str, maker: Maker, inputs: Arrays, feeds: Feeds, expected: Arrays, threshold: Threshold
) -> Piece:
    """A part of a graph, run from `inputs` and the inputs of the graph that it needs besides.

    Args:
        graph: it is cut, at the values of `inputs` and `expected`.
        of: see `Piece`.
        maker: runs the part.
        inputs: values where it begins, by name.
        feeds: the inputs of the graph.
        expected: what the part should give, by name.
        threshold: what counts as a difference.
    """
    model = piece_of(graph, inputs, list(expected))
    fed = {value.name or "": value for value in model.graph.inputs}
    given = {name: fitted(inputs[name], value) if name in inputs else feeds[name] for name, value in fed.items()}
    got = maker(model)(given)
    kept = {name: array.reshape(got[name].shape) if array.size == got[name].size else array
            for name, array in expected.items()}  # fmt: skip
    checks = [compare(name, kept[name], got[name], threshold) for name in expected]
    worst = min(checks, key=lambda check: (check.ok, check.cosine))
    return Piece(of, model, given, kept, worst)


def piece_of(model: ir.Model, at: Arrays, outputs: list[str]) -> ir.Model:
    """The part of a model from the values of `at`, and the inputs that it needs besides, to `outputs`."""
    values = values_by_name(model.graph)
    for name, array in at.items():
        if values[name].shape is None or not values[name].shape.is_static():  # type: ignore[union-attr]
            values[name].shape = ir.Shape(array.shape)
    return between(model, list(at), outputs)


def fitted(array: np.ndarray, value: ir.Value) -> np.ndarray:
    """The other side's value in the shape that this one has: axes of length 1 may be there or not."""
    shape = [size for size in value.shape or () if isinstance(size, int)]
    return array.reshape(shape) if array.size == int(np.prod(shape)) else array


def _borders(model: ir.Model, first: str, agree: Collection[str]) -> Iterator[list[str]]:
    """Where the part may begin: at the nearest values that agree, then at those before them, at last at the inputs."""
    left, skip = set(agree), 0
    while True:
        border, _ = border_of(model, first, left)
        yield border
        if not border:
            return
        for _ in range(1 << skip):
            left -= set(border_of(model, first, left)[0])
        skip += 1


def border_of(model: ir.Model, first: str, stops: Collection[str]) -> tuple[list[str], list[ir.Node]]:
    """A walk back from `first`: the values of `stops` that it comes to, and the nodes on the way, in graph order."""
    values = values_by_name(model.graph)
    found, seen, todo = set[str](), set[ir.Node](), [values[first]]
    while todo:
        node = todo.pop().producer()
        if node is None or node in seen:
            continue
        seen.add(node)
        for value in (*node.inputs, *read_in_subgraphs(node)):
            if value is not None and value.name in stops:
                found.add(value.name or "")
            elif value is not None:
                todo.append(value)
    return [name for name in values if name in found], [node for node in model.graph if node in seen]


def twin(other: Side, piece: Piece, pairs: dict[str, str]) -> ir.Model | None:
    """The same part of the other side, with the names that `piece` has."""
    if other.model is None:
        return None
    renamed = {pairs.get(name, name): name for name in (*piece.inputs, *piece.expected)}
    inner = {pairs[name]: array for name, array in piece.inputs.items() if name in pairs}
    model = piece_of(other.model, inner, [pairs[name] for name in piece.expected])
    ends = {*model.graph.inputs, *model.graph.outputs}
    made = [value for node in model.graph.all_nodes() for value in node.outputs]
    for value in (*made, *model.graph.initializers.values()):
        if value not in ends and value.name in renamed.values():
            value.name = f"{value.name}.a"
    for value in ends:
        value.name = renamed.get(value.name or "", value.name)
    return model
