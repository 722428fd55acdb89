"""The body of methods that work in segments, see `segments`: sets of one kind and one count are reduced together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ....lazy import np
from ..base import Case, Compressed
from . import select
from .cosine import emit_unit
from .shares import emit_highest_of_each, emit_positions

if TYPE_CHECKING:
    import onnx_ir as ir

    from ...ir_tools.builder import Builder
    from .segment_sets import Layout


class SegmentBody(Protocol):
    """What a method defines for its body; see `segments.Segmented`."""

    def emit_likeness(self, b: Builder, unit: ir.Value, length: int) -> ir.Value:
        """The similarity of each position over the frames of a segment."""

    def emit_reduced(
        self, b: Builder, case: Case, static: bool, tokens: ir.Value, scores: ir.Value | None
    ) -> Compressed[ir.Value]:
        """Sets of one kind, each reduced to its count."""


@dataclass(frozen=True)
class _Sets:
    """All sets of one kind.

    Attributes:
        static: their kind.
        tokens: [B G, n, D] float32.
        places: [B G, n] float32.
        scores: [B G, n] float32, or None.
        size: n.
        counts: slots of each.
        first: the first frame of each.
        frames: how many frames each covers.
    """

    static: bool
    tokens: ir.Value
    places: ir.Value
    scores: ir.Value | None
    size: int
    counts: np.ndarray
    first: np.ndarray
    frames: np.ndarray


@dataclass(frozen=True)
class _Slots:
    """Slots of one kind, in the order in which they are reduced.

    Attributes:
        content: [B, k, D] float32.
        positions: [B, k] float32.
        sizes: [B, k] float32.
        of_places: [B, G, P] float32, the slot of each position of each set, -1 for none.
    """

    content: ir.Value
    positions: ir.Value
    sizes: ir.Value
    of_places: ir.Value


def emit_segments(
    b: Builder, case: Case, layout: Layout, how: SegmentBody, tokens: ir.Value, scores: ir.Value | None
) -> Compressed[ir.Value]:
    """Split, reduce, sort the slots; scores [B, N] float32 are those by which `how` ranks dynamic tokens."""
    k, places, segment_of = case.keep, layout.places, np.array(layout.segment_of)
    x = select.emit_float(b, tokens, case)
    kinds, slots, done = _emit_sets(b, case, layout, how, x, scores), [], 0
    for sets in kinds:
        slots.append(_emit_slots_of(b, case.dim, places, how, sets, done))
        done += int(sets.counts.sum())

    of_places = [
        b.op("Gather", one.of_places, segment_of, axis=1) if sets.static else one.of_places
        for sets, one in zip(kinds, slots)
    ]
    unsorted = b.op("Reshape", b.op("Max", *of_places), [-1, case.tokens])
    kept, order = select.emit_top_k(b, _concat(b, [one.positions for one in slots]), k, k, largest=False)
    rank = select.emit_slots(b, b.cast(order, "float32"), k, select.emit_iota(b, 1, k))
    into = b.op("GatherElements", rank, b.cast(b.op("Max", unsorted, 0.0), "int64"), axis=1)
    content = select.emit_gather(b, _concat(b, [one.content for one in slots]), order)
    return Compressed(
        select.emit_like(b, content, case),
        b.cast(kept, "int64"),
        b.op("GatherElements", _concat(b, [one.sizes for one in slots]), order, axis=1),
        b.cast(b.op("Where", b.op("Less", unsorted, 0.0), -1.0, into), "int64"),
    )


def _emit_sets(
    b: Builder, case: Case, layout: Layout, how: SegmentBody, x: ir.Value, scores: ir.Value | None
) -> list[_Sets]:
    """The static sets, and the dynamic ones, of x [B, N, D] float32."""
    places, static, segments, frames = layout.places, layout.static, len(layout.lengths), len(layout.segment_of)
    shape, rows = [-1, frames, places, case.dim], [-1, places, case.dim]
    unit, video = b.op("Reshape", emit_unit(b, x), shape), b.op("Reshape", x, shape)
    likeness, means = [], []
    for start, length in zip(layout.starts, layout.lengths):
        if length > 1:
            alike = how.emit_likeness(b, _frames(b, unit, start, length), length)
        else:
            alike = select.emit_rows(b, x, np.zeros(places, np.float32))
        likeness.append(b.op("Unsqueeze", alike, [1]))
        means.append(b.op("ReduceMean", _frames(b, video, start, length), [1], keepdims=1))
    mask = emit_highest_of_each(b, _concat(b, likeness), [static] * segments, places)
    mask = b.op("Reshape", mask, [-1, places])

    kinds = []
    if static:
        at = emit_positions(b, mask, static, places)
        content = select.emit_gather(b, b.op("Reshape", _concat(b, means), rows), b.cast(at, "int64"))
        first, lengths, counts = (np.array(part) for part in (layout.starts, layout.lengths, layout.static_counts))
        kinds.append(_Sets(True, content, at, None, static, counts, first, lengths))
    if static < places:
        moving = places - static
        at = b.op("Reshape", emit_positions(b, b.op("Not", mask), moving, places), [-1, segments, moving])
        at = b.op("Reshape", b.op("Gather", at, np.array(layout.segment_of), axis=1), [-1, moving])
        index = b.cast(at, "int64")
        content = select.emit_gather(b, b.op("Reshape", x, rows), index)
        if scores is not None:
            scores = b.op("GatherElements", b.op("Reshape", scores, [-1, places]), index, axis=1)
        counts, each = np.array(layout.dynamic_counts), np.arange(frames)
        kinds.append(_Sets(False, content, at, scores, moving, counts, each, np.ones(frames, int)))
    return kinds


def _emit_slots_of(b: Builder, dim: int, places: int, how: SegmentBody, sets: _Sets, done: int) -> _Slots:
    """Reduce sets of one kind; their slots are numbered from `done`."""
    n, total = sets.size, len(sets.counts)
    content, positions, sizes, slots, order = [], [], [], [], []
    for count in np.unique(sets.counts).tolist():
        which = np.flatnonzero(sets.counts == count)

        def pick(value: ir.Value, *rest: int, which: np.ndarray = which) -> ir.Value:
            """The sets that have this count, of all."""
            if len(which) == total:
                return value
            picked = b.op("Gather", b.op("Reshape", value, [-1, total, *rest]), which, axis=1)
            return b.op("Reshape", picked, [-1, *rest])

        scores = None if sets.scores is None else pick(sets.scores, n)
        one = how.emit_reduced(b, Case(n, dim, count), sets.static, pick(sets.tokens, n, dim), scores)
        at = b.op("GatherElements", pick(sets.places, n), one.kept_indices, axis=1)
        frame = b.const((sets.first[which] * places).astype(np.float32).reshape(1, -1, 1))
        position = b.op("Add", b.op("Reshape", at, [-1, len(which), count]), frame)
        size = b.op("Reshape", one.sizes, [-1, len(which), count])
        size = b.op("Mul", size, b.const(sets.frames[which].astype(np.float32).reshape(1, -1, 1)))
        begin = (done + np.arange(len(which)) * count).astype(np.float32).reshape(1, -1, 1)
        slot = b.op("Reshape", b.cast(one.assignment, "float32"), [-1, len(which), n])
        slots.append(b.op("Where", b.op("Less", slot, 0.0), -1.0, b.op("Add", slot, b.const(begin))))
        content.append(b.op("Reshape", one.tokens, [-1, len(which) * count, dim]))
        positions.append(b.op("Reshape", position, [-1, len(which) * count]))
        sizes.append(b.op("Reshape", size, [-1, len(which) * count]))
        order.extend(which.tolist())
        done += len(which) * count
    of_sets = _concat(b, slots)
    if order != sorted(order):
        of_sets = b.op("Gather", of_sets, np.argsort(order), axis=1)
    of_places = select.emit_slots(b, sets.places, places, b.op("Reshape", of_sets, [-1, n]))
    of_places = b.op("Reshape", of_places, [-1, total, places])
    return _Slots(_concat(b, content), _concat(b, positions), _concat(b, sizes), of_places)


def _frames(b: Builder, video: ir.Value, start: int, length: int) -> ir.Value:
    return b.op("Slice", video, [start], [start + length], [1])


def _concat(b: Builder, values: list[ir.Value]) -> ir.Value:
    """All of them along axis 1."""
    return b.op("Concat", *values, axis=1) if len(values) > 1 else values[0]
