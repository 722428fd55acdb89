"""Compares the values that both sides have, some at a time: memory stays that of a few of them.

The first difference is the first, in A's order, of those that lead to an output that differs, with nothing that agrees
on the way: a value that differs while all that is computed from it agrees explains nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ...errors import GraphError
from ...graph_passes.ir_tools.extract import values_by_name
from ...graph_passes.ir_tools.walk import read_in_subgraphs
from ..proof.metrics import Check
from .compare import Threshold, compare
from .inputs import Given
from .matching import Matches
from .sides import Side, numbers

# Of one side's values at a time, in float32; one whose size is not known counts as much as this.
_BYTES, _UNKNOWN = 256 << 20, 16 << 20


@dataclass
class Scan:
    """What comparing the matched values gave.

    Attributes:
        checks: name in A -> how far B's is from it.
        leading: A's values that differ and may explain an output that does, in A's order.
    """

    checks: dict[str, Check] = field(default_factory=dict)
    leading: list[str] = field(default_factory=list)

    @property
    def first(self) -> str:
        """The first of `leading`; empty where there is none."""
        return self.leading[0] if self.leading else ""


def scan(a: Side, b: Side, given: Given, matches: Matches, threshold: Threshold) -> Scan:
    """Compare all matched values; guessed pairs that turn out to be none are taken out of `matches`."""
    checks: dict[str, Check] = {}
    for names in _batches(a, list(matches.pairs)):
        checks |= _compared(a, b, given, matches, threshold, names)
    leading = _leading(a, b, matches, checks)
    for name in [name for name in checks if not checks[name].ok and name not in leading and name in matches.guessed]:
        del checks[name], matches.pairs[name], matches.how[name]
    return Scan(checks, [name for name in checks if name in leading])


def scan_what_runs(a: Side, b: Side, given: Given, matches: Matches, threshold: Threshold) -> Scan:
    """Compare the matched values up to the first that B cannot compute; all that differ among them may explain it."""
    checks: dict[str, Check] = {}
    todo = list(_batches(a, list(matches.pairs)))[::-1]
    while todo:
        names = todo.pop()
        try:
            checks |= _compared(a, b, given, matches, threshold, names)
        except GraphError:
            if len(names) == 1:
                break
            half = len(names) // 2
            todo += [names[half:], names[:half]]
    return Scan(checks, [name for name in checks if not checks[name].ok])


def _compared(
    a: Side, b: Side, given: Given, matches: Matches, threshold: Threshold, names: list[str]
) -> dict[str, Check]:
    ours, theirs = a.read(given.a, names), b.read(given.b, [matches.pairs[name] for name in names])
    return {name: compare(name, ours[name], theirs[matches.pairs[name]], threshold) for name in names}


def _leading(a: Side, b: Side, matches: Matches, checks: Mapping[str, Check]) -> set[str]:
    """Values of A that differ and from which outputs that differ are computed, through none that agrees."""
    graph = a if a.model is not None else b
    names = {name: name for name in checks} if graph is a else {matches.pairs[name]: name for name in checks}
    outputs = [name for name in graph.outputs if name in names and not checks[names[name]].ok]
    if graph.model is None:
        return {name for name in checks if not checks[name].ok}
    values = values_by_name(graph.model.graph)
    found, seen, todo = set[str](), set[str](), outputs
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        ours = names.get(name)
        if ours is not None and checks[ours].ok:
            continue
        if ours is not None:
            found.add(ours)
        node = values[name].producer() if name in values else None
        if node is not None:
            todo += [x.name for x in (*node.inputs, *read_in_subgraphs(node)) if x is not None and x.name]
    return found


def _batches(a: Side, names: list[str]) -> Iterator[list[str]]:
    known, batch, size = a.by_name, list[str](), 0
    for name in names:
        count = numbers(known[name].shape) if name in known else None
        bytes_ = _UNKNOWN if count is None else 4 * count
        if batch and size + bytes_ > _BYTES:
            yield batch
            batch, size = [], 0
        batch.append(name)
        size += bytes_
    if batch:
        yield batch
