"""Which nodes of a half-precision graph must be float32 so that it agrees: measured, and as few as will do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from ...graph_passes.ir_tools.extract import values_by_name
from ...graph_passes.ir_tools.model_io import external_tensors, load_model, save_model
from ...graph_passes.ir_tools.walk import node_keys
from ...graph_passes.precision.ranges import LARGE
from ...graph_passes.precision.rounded import HALVES
from ...graph_passes.precision.widen import Cost, widen
from ..proof.metrics import Check
from .compare import Threshold, compare
from .inputs import Given
from .matching import Matches
from .onnx_side import OnnxSide, of_model
from .pieces import border_of
from .scan import scan
from .sides import Arrays, Side

# Rounds of finding the next value that differs; after these all nodes are taken, and made fewer.
_ROUNDS = 40
# Up to so many nodes each is tried without; of more, whole shares of them go first.
_ONE_BY_ONE = 48


@dataclass
class Islands:
    """What cures a half-precision graph.

    Attributes:
        nodes: node (`walk.node_keys`) -> why; empty where no islands cure it.
        why: why there are none.
        model: the graph with the islands.
        cost: of them.
        of: nodes of the graph that compute in half precision.
    """

    nodes: dict[str, str] = field(default_factory=dict)
    why: str = ""
    model: ir.Model | None = None
    cost: Cost | None = None
    of: int = 0


def find(
    a: Side, b: OnnxSide, given: Given, matches: Matches, threshold: Threshold, step: Callable[[str], None]
) -> Islands:
    """Find the islands that `b` needs to agree with `a` on these inputs.

    Args:
        a: the reference.
        b: a half-precision graph that does not agree with it.
        given: inputs.
        matches: of values.
        threshold: what counts as a difference.
        step: called with what is being tried.
    """
    search = _Search(a, b, given, matches, threshold)
    everything = search.half_nodes()
    step("all nodes in float32")
    if search.worst(everything) is not None:
        return Islands(why="all in float32, B differs as well: what is wrong is not the precision")
    step("collecting float32 islands")
    chosen = search.collect()
    if search.worst(chosen) is not None:
        chosen = everything
    step(f"{len(chosen)} islands: which of them are needed")
    reasons = search.fewest(chosen)
    model, cost = widen(search.graph, reasons, search.weights)
    return Islands({key: search.reason(key, check) for key, check in reasons.items()}, "", model, cost, len(everything))


def written(
    found: Islands, path: Path, b: OnnxSide, a: Side, given: Given, matches: Matches, threshold: Threshold
) -> bool:
    """Write the graph with its islands, and whether the file agrees."""
    assert found.model is not None
    external = next(external_tensors(found.model), None) is not None
    save_model(found.model, path, f"{path.name}.data" if external else None)
    fixed = of_model(load_model(path), {}, given.b, str(path), level=b.level, provider=b.provider)
    return _worst(a, fixed, given, matches, threshold) is None


def to_json(found: Islands, graph: ir.Model, file: str, command: str) -> dict[str, Any]:
    """As in the result of `run.debug`."""
    operators = {key: node.op_type for node, key in node_keys(graph.graph).items()}
    nodes = [{"node": key, "op": operators[key], "why": why} for key, why in found.nodes.items()]
    cost = asdict(found.cost or Cost(0, 0, 0))
    return {"nodes": nodes, "why": found.why, **cost, "of": found.of, "file": file, "command": command}


def _worst(a: Side, b: Side, given: Given, matches: Matches, threshold: Threshold) -> Check | None:
    """The worst output that differs; None where all agree."""
    names = [name for name in a.outputs if matches.pairs.get(name) in b.outputs]
    ours, theirs = a.run(given.a), b.run(given.b)
    checks = [compare(name, ours[name], theirs[matches.pairs[name]], threshold) for name in names]
    return min((check for check in checks if not check.ok), key=lambda check: check.cosine, default=None)


def _weights(a: Side, b: Side, matches: Matches) -> dict[str, ir.TensorProtocol]:
    """A's weights by the names that they have in B: what nodes that are matched read at the same place."""
    if a.model is None or b.model is None:
        return {}
    ours, theirs = values_by_name(a.model.graph), values_by_name(b.model.graph)
    found: dict[str, ir.TensorProtocol] = {}
    for mine, other in matches.pairs.items():
        nodes = ours[mine].producer(), theirs[other].producer()
        if nodes[0] is None or nodes[1] is None or nodes[0].op_type != nodes[1].op_type:
            continue
        for x, y in zip(nodes[0].inputs, nodes[1].inputs):
            if x is not None and y is not None and y.is_initializer() and x.const_value is not None:
                found[y.name or ""] = x.const_value
    return found


class _Recorded(Side):
    """A's outputs, computed once."""

    def __init__(self, side: Side, outputs: Arrays) -> None:
        super().__init__(side.text, side.runs, outputs=side.outputs)
        self._outputs = outputs

    def read(self, feeds: Mapping[str, np.ndarray], names: Any) -> Arrays:
        return {name: self._outputs[name] for name in names}


class _Search:
    def __init__(self, a: Side, b: OnnxSide, given: Given, matches: Matches, threshold: Threshold) -> None:
        assert b.model is not None
        self.a, self.b, self.given, self.matches, self.threshold = a, b, given, matches, threshold
        self.graph = b.model
        self.keys = node_keys(self.graph.graph)
        self.nodes = {key: node for node, key in self.keys.items()}
        self.values = values_by_name(self.graph.graph)
        self.weights = _weights(a, b, matches)
        self._ours = _Recorded(a, a.run(given.a))
        self._back = {theirs: ours for ours, theirs in matches.pairs.items()}

    def half_nodes(self) -> list[str]:
        """All nodes that give a half-precision value, but for constants."""
        return [
            key
            for key, node in self.nodes.items()
            if node.op_type != "Constant" and any(value.dtype in HALVES for value in node.outputs)
        ]

    def side(self, chosen: Mapping[str, Any] | list[str]) -> OnnxSide:
        model, _ = widen(self.graph, list(chosen), self.weights)
        return of_model(model, {}, self.given.b, self.b.text, level=self.b.level, provider=self.b.provider)

    def worst(self, chosen: list[str]) -> Check | None:
        """What differs with these islands; None where the outputs agree."""
        return _worst(self._ours, self.side(chosen), self.given, self.matches, self.threshold)

    def collect(self) -> list[str]:
        """Islands at the first value that differs, then at the next, until the outputs agree."""
        chosen: dict[str, None] = {}
        for _ in range(_ROUNDS):
            side = self.side(chosen)
            there = side.by_name
            pairs = {ours: theirs for ours, theirs in self.matches.pairs.items() if theirs in there}
            found = scan(self.a, side, self.given, Matches(pairs, dict(self.matches.how)), self.threshold)
            if not found.first or self.worst(list(chosen)) is None:
                break
            more = [key for key in self._at(found.first, found.checks) if key not in chosen]
            # What is an island already and still differs got the difference from before it.
            more = more or [key for key in self._before(chosen) if key not in chosen]
            if not more:
                break
            chosen.update(dict.fromkeys(more))
        return list(chosen)

    def _at(self, first: str, checks: Mapping[str, Check]) -> list[str]:
        """The nodes between the nearest values that agree and the first that does not; its readers, if it is large."""
        agree = {self.matches.pairs[name] for name, check in checks.items() if check.ok}
        _, nodes = border_of(self.graph, self.matches.pairs[first], agree)
        value = self.values[self.matches.pairs[first]]
        if self._reach(first) > LARGE:
            nodes = [*nodes, *value.consumers()]
        return [key for node in nodes if (key := self.keys.get(node)) is not None and self._is_half(node)]

    def _before(self, chosen: Mapping[str, None]) -> list[str]:
        producers = (value.producer() for key in chosen for value in self.nodes[key].inputs if value is not None)
        return [self.keys[node] for node in producers if node is not None and self._is_half(node)]

    def _is_half(self, node: ir.Node) -> bool:
        return node.op_type != "Constant" and any(value.dtype in HALVES for value in node.outputs)

    def _reach(self, name: str) -> float:
        """The largest finite magnitude of a value of A."""
        (array,) = self.a.read(self.given.a, [name]).values()
        if array.dtype.kind != "f":
            return 0.0
        return float(np.abs(array[np.isfinite(array)]).max(initial=0.0))

    def fewest(self, chosen: list[str]) -> dict[str, Check]:
        """Those without which the outputs differ -> what differs; a share at a time, then one by one."""
        share = len(chosen) // 2
        while len(chosen) > _ONE_BY_ONE and share >= 1:
            for at in range(0, len(chosen), share):
                rest = chosen[:at] + chosen[at + share :]
                if rest and self.worst(rest) is None:
                    chosen = rest
                    break
            else:
                share //= 2
        needed: dict[str, Check] = {}
        left = list(chosen)
        for key in reversed(chosen):
            without = [other for other in left if other != key]
            check = self.worst(without)
            if check is None:
                left = without
            else:
                needed[key] = check
        return {key: needed[key] for key in chosen if key in needed}

    def reason(self, key: str, without: Check) -> str:
        """Why a node is an island."""
        node = self.nodes[key]
        for value in (*node.outputs, *node.inputs):
            ours = self._back.get((value.name or "") if value is not None else "")
            if ours is not None and (reach := self._reach(ours)) > LARGE:
                return f"|{ours}| reaches {reach:.4g} in A"
        return f"without it {without.tensor} has {without.detail or f'cosine {without.cosine:.6f}'}"
