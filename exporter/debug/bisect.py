"""Finds what fails without looking inside: the graph is cut at block boundaries, and the parts are built and run.

An inner value that is shown keeps a runtime from fusing across it, and an engine shows none; a part that is cut at
block boundaries is fused inside as the whole is. Each part is given the reference's values, so that it fails by itself
or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from .compare import Threshold
from .pieces import Piece, run_piece
from .sides import Feeds, Maker, Side

Cut = tuple[str, ...]
# Builds of parts: a binary search takes about ten, and what fails only as a pair is narrowed node by node.
_MOST = 60


@dataclass
class Reference:
    """Where the values at the cuts come from.

    Attributes:
        side: whose values they are.
        feeds: its inputs.
        names: of a value in the graph that is cut -> in the side.
    """

    side: Side
    feeds: Feeds
    names: Mapping[str, str]

    def __call__(self, cut: Cut) -> dict[str, object]:
        """The values of a cut, by the names of the graph."""
        found = self.side.read(self.feeds, [self.names[name] for name in cut])
        return {name: found[self.names[name]] for name in cut}


def narrow(
    graph: ir.Model,
    maker: Maker,
    feeds: Feeds,
    reference: Reference,
    threshold: Threshold,
    step: Callable[[str], None] = lambda text: None,
) -> tuple[Piece | None, int]:
    """The smallest part of `graph` that fails as `maker` runs it.

    Args:
        graph: its whole is tried first.
        maker: builds and runs a part.
        feeds: the inputs of the graph.
        reference: values at the cuts; cuts where it has not all of them are left out.
        threshold: what counts as a difference.
        step: called with what is being built.

    Returns:
        (the part, None where even the whole does not fail; how many parts were built).
    """
    outputs = tuple(value.name or "" for value in graph.graph.outputs)
    search = _Search(graph, maker, feeds, reference, threshold, step, [*cuts(graph, reference.names), outputs])
    if not search.fails(-1, len(search.at) - 1):
        return None, search.built
    blocks = search.boundaries()
    low, high = search.halve([-1, *blocks, len(search.at) - 1])
    low, high = search.halve(list(range(low, high + 1)))
    low, high = search.shrink(low, high)
    assert search.failing is not None
    search.failing.whole = low < 0
    return search.failing, search.built


def cuts(graph: ir.Model, known: Mapping[str, str]) -> list[Cut]:
    """After each node, the computed values that later nodes or the caller still read; only where all are `known`."""
    last: dict[ir.Value, int] = {}
    fixed = set(graph.graph.initializers.values())
    nodes = list(graph.graph)
    for i, node in enumerate(nodes):
        if all(value is None or value in fixed for value in node.inputs):
            fixed.update(node.outputs)
        last.update({value: i for value in node.inputs if value is not None})
    last.update({value: len(nodes) for value in graph.graph.outputs})
    live: dict[ir.Value, None] = {}
    found: list[Cut] = []
    for i, node in enumerate(nodes[:-1]):
        live.update({value: None for value in node.outputs if value not in fixed and value in last})
        live = {value: None for value in live if last[value] > i}
        cut = tuple(value.name or "" for value in live)
        if cut and all(name in known for name in cut) and (not found or found[-1] != cut):
            found.append(cut)
    return found


class _Search:
    """Cuts by number; -1 are the inputs of the graph. `failing` is the last part that failed."""

    def __init__(
        self,
        graph: ir.Model,
        maker: Maker,
        feeds: Feeds,
        reference: Reference,
        threshold: Threshold,
        step: Callable[[str], None],
        at: list[Cut],
    ) -> None:
        self.graph, self.maker, self.feeds, self.reference, self.threshold = graph, maker, feeds, reference, threshold
        self.step, self.at, self.built = step, at, 0
        self.failing: Piece | None = None

    def fails(self, low: int, high: int) -> bool:
        """Whether the part between two cuts fails by itself."""
        begin = self.at[low] if low >= 0 else ()
        # A value that is only handed on is computed by nobody in the part.
        end = tuple(name for name in self.at[high] if name not in begin)
        if self.built >= _MOST or not end:
            return False
        self.built += 1
        self.step(f"part {self.built}: {' '.join(begin) or 'inputs'} to {' '.join(end)}")
        inputs = self.reference(begin) if begin else {}
        piece = run_piece(
            self.graph,
            "b",
            self.maker,
            inputs,  # type: ignore[arg-type]
            self.feeds,
            self.reference(end),  # type: ignore[arg-type]
            self.threshold,
        )
        if not piece.check.ok:
            self.failing = piece
        return not piece.check.ok

    def boundaries(self) -> list[int]:
        """Cuts through the fewest values: where blocks end, in a model that has such."""
        inner = self.at[:-1]
        fewest = min((len(cut) for cut in inner), default=0)
        return [i for i, cut in enumerate(inner) if len(cut) == fewest]

    def halve(self, among: list[int]) -> tuple[int, int]:
        """The nearest two of these cuts with a failing part between them, where one half always fails by itself."""
        low, high = 0, len(among) - 1
        while high - low > 1:
            middle = (low + high) // 2
            if self.fails(among[low], among[middle]):
                high = middle
            elif self.fails(among[middle], among[high]):
                low = middle
            else:
                break
        return among[low], among[high]

    def shrink(self, low: int, high: int) -> tuple[int, int]:
        """What fails only together is made shorter from both ends."""
        while high - low > 1 and self.fails(low, high - 1):
            high -= 1
        while high - low > 1 and self.fails(low + 1, high):
            low += 1
        return low, high
