"""Compares two models: their outputs, then layer by layer, then the smallest part that fails by itself."""

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
from .causes import causes
from .compare import Threshold, compare
from .inputs import Given, from_file, given, partners
from .matching import Matches, match
from .onnx_side import OnnxSide
from .opening import How, open_side, roles
from .pieces import Piece, smallest, twin
from .scan import Scan, scan
from .sides import Side, Value
from .written import write

if TYPE_CHECKING:
    from ...graph_passes.ir_tools.ort_session import Level

Step = Callable[[str], None]


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
        level: ONNX Runtime's optimisations of B; A has none.
        provider: the execution provider of B.
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
    level: Level = "all"
    provider: str = "CPUExecutionProvider"
    layers: bool = False
    out: Path = Path("tokexport-debug")
    fix: Path | None = None


def debug(request: Request, step: Step = lambda text: None) -> dict[str, Any]:
    """Compare.

    Returns:
        a, b, ok, and graphs: for each role what `_one` returns.

    Raises:
        TokexportError: a side cannot be opened or run, inputs do not fit, or there is nothing to compare.
    """
    arrays = None if request.inputs is None else from_file(request.inputs)
    found = []
    for role in roles(request.a, request.b, request.role):
        step(f"opening {request.a} {role}".rstrip())
        a = open_side(request.a, role, How(request.shapes, arrays or {}))
        step(f"opening {request.b} {role}".rstrip())
        b = open_side(request.b, role, How(request.shapes, arrays or {}, request.level, request.provider))
        unknown = [name for name in request.shapes if name not in a.inputs and name not in b.inputs]
        if unknown:
            raise RequestError(
                f"--input-shape names {unknown[0]!r}, which neither takes", fix=f"They take {', '.join(a.inputs)}."
            )
        feeds = given(a, b, arrays, request.seed, str(request.inputs))
        found.append({"role": role, **_one(request, role, a, b, feeds, step)})
    return {"a": request.a, "b": request.b, "ok": all(one["ok"] for one in found), "graphs": found}


def _one(request: Request, role: str, a: Side, b: Side, feeds: Given, step: Step) -> dict[str, Any]:
    """Compare two sides.

    Returns:
        ok, runs, inputs, threshold, notes, outputs (a row each), matched (counts by how), compared (how many), layers
        (rows, where asked for), first, piece, islands.
    """
    threshold = Threshold.of(a.precision, b.precision, request.cosine, request.norm)
    matches = match(a, b, partners(a, b))
    ends = [name for name in a.outputs if matches.pairs.get(name) in b.outputs]
    if not ends:
        raise RequestError(
            f"no output of {a.text} is one of {b.text}: {', '.join(a.outputs)} and {', '.join(b.outputs)}",
            fix="Outputs are matched by name, and by order where both have as many: rename them, or leave some out.",
        )
    step("comparing outputs")
    ours, theirs = a.run(feeds.a), b.run(feeds.b)
    outputs = {name: compare(name, ours[name], theirs[matches.pairs[name]], threshold) for name in ends}
    ok = all(check.ok for check in outputs.values())
    result: dict[str, Any] = {
        "ok": ok,
        "runs": {"a": a.runs, "b": b.runs},
        "inputs": feeds.source,
        "threshold": vars(threshold),
        "notes": [*a.notes, *b.notes],
        "outputs": [_row(a.value(name), check) for name, check in outputs.items()],
        "matched": matches.counts(),
        "layers": [],
        "first": None,
        "piece": None,
        "islands": None,
        "compared": len(outputs),
    }
    unmatched = [name for name in a.outputs if name not in ends]
    if unmatched:
        result["notes"].append(f"only A has the outputs {', '.join(unmatched)}; they were not compared")
    if ok and not request.layers:
        return result
    step("comparing layer by layer")
    found = scan(a, b, feeds, matches, threshold, whole=request.layers)
    result["layers"] = [_row(a.value(name), check) for name, check in found.checks.items()] if request.layers else []
    result["compared"] = len(found.checks)
    if ok:
        if found.first:
            result["notes"].append(f"{found.first} differs inside, and the outputs agree nevertheless")
        return result
    _explain(request, role, a, b, feeds, matches, found, threshold, result, step)
    return result


def _explain(
    request: Request,
    role: str,
    a: Side,
    b: Side,
    feeds: Given,
    matches: Matches,
    found: Scan,
    threshold: Threshold,
    result: dict[str, Any],
    step: Step,
) -> None:
    """Add to the result the first place, the smallest part that fails, and what cures half precision."""
    piece = None
    if set(matches.pairs) <= {*a.outputs}:
        result["notes"].append("nothing between the inputs and the outputs of A and B could be matched")
    if found.first:
        first, other = a.value(found.first), b.value(matches.pairs[found.first])
        how = matches.how[found.first]
        result["first"] = {**_row(first, found.checks[found.first]), "b": _place(other), "how": how}
        step("looking for the smallest part that fails")
        piece = smallest(a, b, feeds, matches, found, threshold)
    if a.model is None and b.model is None:
        result["notes"].append("neither side has a graph that could be cut: give the .onnx file of one")
    options = _options(request)
    graph = b.model or a.model
    if b.makes and graph is not None and (not found.first or (piece is None and b.model is None)):
        piece = _recut(a, b, feeds, matches, threshold, result, step)
        options += f" --level {request.level}" if b.model is not None else ""
    if piece is not None:
        files, command = write(piece, request.out, role, options)
        why = [] if piece.twin is None else causes(piece.twin, piece.model)
        result["piece"] = {
            "of": piece.of,
            "nodes": sum(node.op_type != "Constant" for node in piece.model.graph),
            "inputs": {name: list(array.shape) for name, array in piece.inputs.items()},
            "whole": piece.whole,
            "check": piece.check.to_json(),
            "causes": why,
            "files": files,
            "command": command,
        }
    if isinstance(b, OnnxSide) and b.precision != "fp32":
        result["islands"] = _cured(request, a, b, feeds, matches, threshold, result, step)


def _cured(
    request: Request,
    a: Side,
    b: OnnxSide,
    feeds: Given,
    matches: Matches,
    threshold: Threshold,
    result: dict[str, Any],
    step: Step,
) -> dict[str, Any]:
    """The islands that cure a half-precision B; written, and `result` is ok, where that was asked for."""
    assert b.model is not None
    found = islands.find(a, b, feeds, matches, threshold, step)
    file, path = "", request.fix
    if found.nodes and path is not None:
        step(f"writing {path}")
        try:
            agrees = islands.written(found, path, b, a, feeds, matches, threshold)
        except OSError as error:
            raise RequestError(f"{path} cannot be written: {reason(error)}", fix="Name another file.") from None
        file, result["ok"] = str(path), agrees
    command = f"the same command with --fix {shlex.quote(Path(request.b).with_suffix('.fixed.onnx').name)}"
    return islands.to_json(found, b.model, file, command)


def _recut(
    a: Side, b: Side, feeds: Given, matches: Matches, threshold: Threshold, result: dict[str, Any], step: Step
) -> Piece | None:
    """The smallest part that fails as B runs it, found by building parts."""
    graph = b.model or a.model
    assert graph is not None
    if b.model is None:
        names, of_graph = {value.name: value.name for value in a.values}, feeds.a
    else:
        names, of_graph = {theirs: ours for ours, theirs in matches.pairs.items()}, feeds.b
        result["notes"].append("the difference is gone when inner values are shown: parts were built instead")
    piece, built = narrow(graph, b.maker, of_graph, Reference(a, feeds.a, names), threshold, step)
    result["notes"].append(f"{built} parts were built and run")
    if piece is None:
        result["notes"].append(f"the whole graph, built here, agrees: {b.text} was made of another, or otherwise")
        return None
    check = piece.check
    value = a.value(names.get(check.tensor, check.tensor))
    result["first"] = {**_row(value, check), "b": _place(value), "how": "parts"}
    if b.model is None:
        piece.twin = None
    else:
        piece.twin = None if a.model is None else twin(a, piece, names)
    return piece


def _options(request: Request) -> str:
    """What makes a run of the part judge as this one did."""
    asked = [("--cosine", request.cosine), ("--norm", request.norm)]
    return "".join(f" {name} {value:g}" for name, value in asked if value is not None)


def _row(value: Value, check: Check) -> dict[str, Any]:
    left_out = ("part", "tensor", "flipped")
    return {**_place(value), **{key: found for key, found in check.to_json().items() if key not in left_out}}


def _place(value: Value) -> dict[str, Any]:
    shape = None if value.shape is None else list(value.shape)
    return {"value": value.name, "op": value.op, "node": value.node, "scope": value.scope, "shape": shape}
