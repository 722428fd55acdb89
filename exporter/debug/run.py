"""Compares two models: their outputs, and where these differ, what explains it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...errors import GraphError, RequestError, reason
from ...graph_passes.ir_tools.providers import short
from ..proof.metrics import LARGEST, Check
from .compare import Threshold, compare
from .explain import Case, Request, explain, row
from .inputs import Given, from_file, given, partners
from .matching import match
from .onnx_side import OnnxSide
from .opening import How, open_side, roles
from .recorded_side import record
from .scan import scan, scan_what_runs
from .sides import Feeds, Side

Step = Callable[[str], None]


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
        sizes = arrays or a.examples or {}
        how = How(request.shapes, sizes, request.level or "all", short(request.provider or "cpu"))
        b = open_side(request.b, role, how, a)
        _refuse_unused(request, a, b)
        feeds = _given(request, a, b, arrays)
        found.append({"role": role, **_one(request, role, a, b, feeds, step)})
    return {"a": request.a, "b": request.b, "ok": all(one["ok"] for one in found), "graphs": found}


def record_values(request: Request, path: Path, step: Step = lambda text: None) -> dict[str, Any]:
    """Write the values of A with its inputs into an .npz, to be compared with where A cannot run.

    Args:
        request: what A is, and its inputs; with `layers` inner values are written too.
        path: the file.
        step: called with what is being done.

    Returns:
        file, inputs (where they come from), values (how many).

    Raises:
        RequestError: the file cannot be written.
        TokexportError: A cannot be opened or run.
    """
    arrays = None if request.inputs is None else from_file(request.inputs)
    (role,) = roles(request.a, request.a, request.role)[:1]
    step(f"opening {request.a} {role}".rstrip())
    a = open_side(request.a, role, How(request.shapes, arrays or {}))
    feeds = _given(request, a, a, arrays)
    step("running it")
    outputs = a.run(feeds.a)
    inner = [value.name for value in a.values if value.name not in outputs] if request.layers else []
    values = a.read(feeds.a, inner) if inner else {}
    try:
        record(path, feeds.a, outputs, values)
    except OSError as error:
        raise RequestError(f"{path} cannot be written: {reason(error)}", fix="Name another file.") from None
    return {"file": str(path), "inputs": feeds.source, "values": len(outputs) + len(values)}


def _refuse_unused(request: Request, a: Side, b: Side) -> None:
    """Refuse options that are about another kind of side than those that were given.

    Raises:
        RequestError: there is one.
    """
    if request.shapes and not (isinstance(a, OnnxSide) or isinstance(b, OnnxSide)):
        raise RequestError(
            f"--input-shape is about ONNX files, and neither {a.text} nor {b.text} is one", fix="Leave it out."
        )
    for option, value in (("--level", request.level), ("--provider", request.provider)):
        if value and not isinstance(b, OnnxSide):
            raise RequestError(
                f"{option} is about ONNX Runtime, and B, {b.text}, runs in {b.runs}", fix="Leave it out."
            )
    if request.fix and (not isinstance(b, OnnxSide) or b.precision == "fp32"):
        raise RequestError(
            f"--fix keeps parts of a half-precision ONNX graph in float32, and B, {b.text}, is none",
            fix="Leave it out.",
        )


def _given(request: Request, a: Side, b: Side, arrays: Feeds | None) -> Given:
    unknown = [name for name in request.shapes if name not in a.inputs and name not in b.inputs]
    if unknown:
        raise RequestError(
            f"--input-shape names {unknown[0]!r}, which neither takes", fix=f"They take {', '.join(a.inputs)}."
        )
    return given(a, b, arrays, request.seed, str(request.inputs))


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
    ours, broken = a.run(feeds.a), None
    try:
        theirs = b.run(feeds.b)
        outputs = {name: compare(name, ours[name], theirs[matches.pairs[name]], threshold) for name in ends}
    except GraphError as error:
        if not isinstance(b, OnnxSide):
            raise
        broken = error
        outputs = {name: Check("", name, False, 0.0, 0.0, LARGEST, detail="B does not run") for name in ends}
    ok = all(check.ok for check in outputs.values())
    result: dict[str, Any] = {
        "ok": ok,
        "runs": {"a": a.runs, "b": b.runs},
        "inputs": feeds.source,
        "threshold": vars(threshold),
        "notes": [*a.notes, *b.notes],
        "outputs": [row(a.value(name), check) for name, check in outputs.items()],
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
    if ok and request.fix:
        result["notes"].append(f"{b.text} agrees as it is, so {request.fix} was not written")
    if ok and not request.layers:
        return result
    step("comparing layer by layer")
    found = (scan_what_runs if broken else scan)(a, b, feeds, matches, threshold)
    if broken and not found.first:
        raise broken
    if broken:
        result["notes"].append(f"B does not run: {broken.what}")
    result["matched"] = matches.counts()
    result["layers"] = [row(a.value(name), check) for name, check in found.checks.items()] if request.layers else []
    result["compared"] = len(found.checks)
    if not ok:
        explain(Case(request, role, a, b, feeds, matches, threshold, step, broken is not None), found, result)
    elif inside := [name for name, check in found.checks.items() if not check.ok]:
        result["notes"].append(f"{inside[0]} differs inside, and the outputs agree nevertheless")
    return result
