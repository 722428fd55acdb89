"""Which value of A is which value of B: by place, by scope, by name, by structure, in this order.

by place      inputs, and outputs of the same name; outputs that are left over, in their order.
by scope      what leaves a module of the same path, where each side has one such value; and inside it the n-th node of
              an operator, where both sides have as many of it.
by name       values of the same name and operator. Names that exporters count up, as val_12, count only where the
              shapes agree too.
by kind       of a module and a graph without module paths: linear layers, convolutions and norms, in the longest common
              sequence of their kinds and sizes.
by structure  in the order in which outputs need them, the longest common sequence of operators and shapes between two
              pairs that are matched already; then of operators alone.

A pair that is guessed (inside a module, by counted name, by structure) is dropped where what one of its nodes reads is
matched with something that the other does not read; or nothing that they read is matched, and their shapes differ. A
guess may still be wrong: `scan` drops what differs though everything that is computed from it agrees.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any

from .kinds import by_kind
from .sides import Side, Value

if TYPE_CHECKING:
    pass

# What exporters call a value that they have no name for: val_12, onnx::Add_35, 128, /layers.0/Add_output_0 is none.
_COUNTED = re.compile(r"(?:onnx::)?[A-Za-z]*(?:_[A-Za-z]+)*_?\d+")


@dataclass
class Matches:
    """The pairs that were found.

    Attributes:
        pairs: name in A -> name in B, in A's order of computation.
        how: name in A -> place, scope, name, kind or structure.
        guessed: names in A whose pair may be wrong.
    """

    pairs: dict[str, str] = field(default_factory=dict)
    how: dict[str, str] = field(default_factory=dict)
    guessed: set[str] = field(default_factory=set)

    def counts(self) -> dict[str, int]:
        """How many there are of each kind."""
        return dict(Counter(self.how.values()))


def match(a: Side, b: Side, inputs: dict[str, str]) -> Matches:
    """Match the values of two sides.

    Args:
        a: the reference.
        b: the other.
        inputs: B's inputs -> A's, see `inputs.partners`.
    """
    found = _Found(a, b, {own: other for other, own in inputs.items()})
    found.add(_outputs(a, b), "place")
    found.add(_by_scope(a, b), "scope")
    found.add(_by_name(a, b, counted=False), "name")
    found.add(_inside_scopes(a, b), "scope", guess=True)
    found.add(_by_name(a, b, counted=True), "name", guess=True)
    if "scope" not in found.how.values():
        found.add(by_kind(a, b), "kind", guess=True)
    for key in (_operator_and_shape, _operator):
        found.add(_by_structure(a, b, found, key), "structure", guess=True)
        found.drop_inconsistent()
    order = {value.name: i for i, value in enumerate(a.values)}
    names = sorted(found.partner, key=lambda name: order.get(name, len(order)))
    pairs, how = ({name: table[name] for name in names} for table in (found.partner, found.how))
    return Matches(pairs, how, found.guessed)


class _Found:
    """What is matched so far; a value has one partner."""

    def __init__(self, a: Side, b: Side, inputs: dict[str, str]) -> None:
        self.inputs, self.partner, self.how = inputs, dict[str, str](), dict[str, str]()
        self.taken, self.guessed, self._inputs_b = set[str](), set[str](), {*inputs.values()}
        self._reads_a, self._reads_b = reads(a), reads(b)
        self._shape_a, self._shape_b = ({value.name: value.shape for value in side.values} for side in (a, b))

    def add(self, pairs: Iterable[tuple[str, str]], how: str, *, guess: bool = False) -> None:
        for a, b in pairs:
            if a in self.partner or b in self.taken:
                continue
            self.partner[a], self.how[a] = b, how
            self.taken.add(b)
            if guess:
                self.guessed.add(a)

    def drop_inconsistent(self) -> None:
        """Take guesses back until all that are left fit together."""
        while wrong := [a for a in self.guessed if not self._consistent(a, self.partner[a])]:
            for a in wrong:
                self.taken.discard(self.partner.pop(a))
                del self.how[a]
            self.guessed.difference_update(wrong)

    def _consistent(self, a: str, b: str) -> bool:
        if a not in self._reads_a or b not in self._reads_b:
            return True
        known = (self.partner.get(name) or self.inputs.get(name) for name in self._reads_a[a])
        partners = {name for name in known if name}
        taken = {name for name in self._reads_b[b] if name in self.taken or name in self._inputs_b}
        return partners == taken and (bool(partners) or self._shape_a.get(a) == self._shape_b.get(b))


def reads(side: Side) -> dict[str, list[str]]:
    """The values that each value is computed from; nothing for a side without a graph."""
    if side.model is None:
        return {}
    known = {*side.by_name, *side.inputs}
    return {
        output.name or "": [value.name for value in node.inputs if value is not None and value.name in known]
        for node in side.model.graph
        for output in node.outputs
    }


def _outputs(a: Side, b: Side) -> list[tuple[str, str]]:
    same = [(name, name) for name in a.outputs if name in b.outputs]
    rest = [[name for name in side.outputs if (name, name) not in same] for side in (a, b)]
    return [*same, *zip(*rest)] if len(rest[0]) == len(rest[1]) else same


def _by_scope(a: Side, b: Side) -> Iterable[tuple[str, str]]:
    ours, theirs = exits(a), exits(b)
    for path, values in ours.items():
        if len(values) == 1 and len(theirs.get(path, ())) == 1:
            yield values[0], theirs[path][0]


def _inside_scopes(a: Side, b: Side) -> Iterable[tuple[str, str]]:
    inside: list[dict[tuple[str, str], list[str]]] = [{}, {}]
    for side, groups in zip((a, b), inside):
        for value in side.values if side.model is not None else ():
            if value.scope:
                groups.setdefault((value.scope, value.op), []).append(value.name)
    for key, names in inside[0].items():
        if len(names) == len(inside[1].get(key, ())):
            yield from zip(names, inside[1][key])


def exits(side: Side) -> dict[str, list[str]]:
    """Module path -> the values that leave it: of a PyTorch side what it returned."""
    found: dict[str, list[str]] = {}
    if side.model is None:
        for value in side.values:
            if value.scope:
                found.setdefault(value.scope, []).append(value.name)
        return found
    scope = {value.name: value.scope for value in side.values}
    for node in side.model.graph:
        for output in node.outputs:
            path = scope.get(output.name or "", "")
            if not path:
                continue
            users = [scope.get(user.outputs[0].name or "", "") for user in output.consumers() if user.outputs]
            users += [""] if output.is_graph_output() else []
            parts = path.split(".")
            for i in range(len(parts), 0, -1):
                parent = ".".join(parts[:i])
                if all(f"{user}.".startswith(f"{parent}.") for user in users):
                    break
                found.setdefault(parent, []).append(output.name or "")
    return found


def _by_name(a: Side, b: Side, *, counted: bool) -> Iterable[tuple[str, str]]:
    theirs = b.by_name
    for value in a.values:
        other = theirs.get(value.name)
        if other is None or bool(_COUNTED.fullmatch(value.name)) != counted:
            continue
        same = value.op == other.op or not (value.op and other.op)
        if same and (not counted or value.shape == other.shape):
            yield value.name, value.name


def _operator_and_shape(value: Value) -> Any:
    return value.op, value.shape


def _operator(value: Value) -> Any:
    return value.op


def _by_structure(a: Side, b: Side, found: _Found, key: Callable[[Value], Any]) -> Iterable[tuple[str, str]]:
    """Pairs in the gaps between pairs that both sides have in the same order."""
    if a.model is None or b.model is None:
        return
    ours, theirs = a.in_order(), b.in_order()
    places = {value.name: i for i, value in enumerate(theirs)}
    before = (0, 0)
    anchors = [(i, places[found.partner[v.name]]) for i, v in enumerate(ours) if found.partner.get(v.name) in places]
    for i, j in [*anchors, (len(ours), len(theirs))]:
        if j < before[1]:
            continue
        gap = [v for v in ours[before[0] : i] if v.name not in found.partner]
        other = [v for v in theirs[before[1] : j] if v.name not in found.taken]
        matcher = SequenceMatcher(None, [key(v) for v in gap], [key(v) for v in other], autojunk=False)
        for block in matcher.get_matching_blocks():
            for offset in range(block.size):
                yield gap[block.a + offset].name, other[block.b + offset].name
        before = (i + 1, j + 1)
