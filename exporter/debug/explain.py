"""Why outputs differ: the first place, the smallest part that fails by itself, and what cures half precision."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import RequestError, reason
from ..proof.metrics import Check
from . import islands
from .bisect import Reference, narrow
from .causes import causes, likeness
from .compare import Threshold
from .engine_side import EngineSide
from .inputs import Given
from .matching import Matches
from .onnx_side import OnnxSide
from .pieces import Piece, smallest, twin
from .scan import Scan
from .sides import Side, Value
from .written import write

if TYPE_CHECKING:
    from ...graph_passes.ir_tools.ort_session import Level


# Of two parts that compute the same, one of them wrongly, so many operators are the same at least.
_ALIKE = 0.6


@dataclass(frozen=True)
class Request:
    """What was asked for.

    Attributes:
        a: the reference.
        b: what is compared with it.
        inputs: an .npz; None: what a side brings along, else random ones of `seed`.
        shapes: input name -> sizes.
        role: of a bundle; None: all that both have.
        cosine: the least that passes; None: that of the precision.
        norm: likewise, the largest distance of the norm ratio from 1.
        level: ONNX Runtime's optimisations of B; None: all. A has none.
        provider: the execution provider of B; None: the CPU.
        layers: whether all values are compared, also where the outputs agree.
        out: folder for the smallest part that fails.
        fix: file for a half-precision B with the float32 islands that it needs; None: they are only found.
    """

    a: str
    b: str
    inputs: Path | None = None
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    seed: int = 0
    role: str | None = None
    cosine: float | None = None
    norm: float | None = None
    level: Level | None = None
    provider: str | None = None
    layers: bool = False
    out: Path = Path("tokexport-debug")
    fix: Path | None = None


@dataclass(frozen=True)
class Case:
    """Two sides that are being compared.

    Attributes:
        step: called with what is being done.
        broken: whether B does not run to its outputs.
    """

    request: Request
    role: str
    a: Side
    b: Side
    given: Given
    matches: Matches
    threshold: Threshold
    step: Callable[[str], None]
    broken: bool = False


def explain(case: Case, found: Scan, result: dict[str, Any]) -> None:
    """Add to `result` the entries first, piece and islands, and notes.

    Args:
        case: whose outputs differ.
        found: what comparing its values gave.
        result: of `run.debug`, for one graph.
    """
    a, b, matches = case.a, case.b, case.matches
    if set(matches.pairs) <= {*a.outputs} and not isinstance(b, EngineSide):
        result["notes"].append("nothing between the inputs and the outputs of A and B could be matched")
    if a.model is None and b.model is None:
        result["notes"].append("neither side has a graph that could be cut: give the .onnx file of one")
    piece = None
    if found.first and not isinstance(b, EngineSide):
        case.step("looking for the smallest part that fails")
        piece = _first_that_is_one(case, found)
        first, other = a.value(found.first), b.value(matches.pairs[found.first])
        how = matches.how[found.first]
        result["first"] = {**row(first, found.checks[found.first]), "b": _place(other), "how": how}
    graph, parts = b.model or a.model, False
    if piece is None and b.makes and graph is not None and not case.broken:
        piece, parts = _by_parts(case, result), True
    if piece is not None:
        result["piece"] = _written(case, piece, parts=parts)
    if isinstance(b, OnnxSide) and b.precision != "fp32" and not case.broken:
        result["islands"] = _cured(case, b, result)


def _first_that_is_one(case: Case, found: Scan) -> Piece | None:
    """The smallest part for the first difference; guessed pairs whose two parts have little in common are dropped."""
    while True:
        piece = smallest(case.a, case.b, case.given, case.matches, found, case.threshold)
        guessed = found.first in case.matches.guessed and len(found.leading) > 1
        if piece is None or piece.twin is None or not guessed or likeness(piece.twin, piece.model) >= _ALIKE:
            return piece
        wrong = found.leading.pop(0)
        del found.checks[wrong], case.matches.pairs[wrong], case.matches.how[wrong]


def _by_parts(case: Case, result: dict[str, Any]) -> Piece | None:
    """The smallest part that fails as B runs it, found by building parts."""
    a, b = case.a, case.b
    graph = b.model or a.model
    assert graph is not None
    if b.model is None:
        names, feeds = {value.name: value.name for value in a.values}, case.given.a
    else:
        names, feeds = {theirs: ours for ours, theirs in case.matches.pairs.items()}, case.given.b
        result["notes"].append("the difference is gone when inner values are shown, so parts were built instead")
    reference = Reference(a, case.given.a, names)
    piece, built = narrow(graph, b.maker, feeds, reference, case.threshold, case.step)
    result["notes"].append(f"{built} part{'' if built == 1 else 's'} of the graph built and run")
    if piece is None:
        result["notes"].append(f"the whole graph of A, built here, agrees: {b.text} was made of another, or otherwise")
        return None
    value = a.value(names[piece.check.tensor])
    other = b.value(piece.check.tensor) if b.model is not None else value
    result["first"] = {**row(value, piece.check), "b": _place(other), "how": "parts"}
    piece.twin = None if b.model is None else twin(a, piece, names)
    return piece


def _written(case: Case, piece: Piece, *, parts: bool) -> dict[str, Any]:
    """The entry piece; its files are written."""
    request = case.request
    asked = [("--cosine", request.cosine), ("--norm", request.norm)]
    options = "".join(f" {name} {value:g}" for name, value in asked if value is not None)
    options += f" --level {request.level}" if request.level else ""
    options += f" --provider {request.provider}" if request.provider else ""
    built = case.b.builder if parts and isinstance(case.b, EngineSide) else ""
    files, command = write(piece, request.out, case.role, options, built)
    return {
        "of": "a" if built else piece.of,
        "nodes": sum(node.op_type != "Constant" for node in piece.model.graph),
        "inputs": {name: list(array.shape) for name, array in piece.inputs.items()},
        "whole": piece.whole,
        "check": piece.check.to_json(),
        "causes": [] if piece.twin is None else causes(piece.twin, piece.model),
        "files": files,
        "command": command,
    }


def _cured(case: Case, b: OnnxSide, result: dict[str, Any]) -> dict[str, Any]:
    """The entry islands; the graph with them is written, and `result` is ok, where that was asked for."""
    assert b.model is not None
    found = islands.find(case.a, b, case.given, case.matches, case.threshold, case.step)
    file, path = "", case.request.fix
    if path is not None and case.role:
        path = path.with_name(f"{path.stem}.{case.role}{path.suffix}")
    if found.nodes and path is not None:
        case.step(f"writing {path}")
        try:
            agrees = islands.written(found, path, b, case.a, case.given, case.matches, case.threshold)
        except OSError as error:
            raise RequestError(f"{path} cannot be written: {reason(error)}", fix="Name another file.") from None
        file, result["ok"] = str(path), agrees
    fixed = shlex.quote(f"{Path(case.request.b).stem}.fixed.onnx")
    return islands.to_json(found, b.model, file, f"the same command with --fix {fixed}")


def row(value: Value, check: Check) -> dict[str, Any]:
    """A value with how far B's is from it."""
    left_out = ("part", "tensor", "flipped")
    return {**_place(value), **{key: found for key, found in check.to_json().items() if key not in left_out}}


def _place(value: Value) -> dict[str, Any]:
    shape = None if value.shape is None else list(value.shape)
    return {"value": value.name, "op": value.op, "node": value.node, "scope": value.scope, "shape": shape}
