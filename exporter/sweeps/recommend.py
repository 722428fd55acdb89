"""`recommend()`: a sweep, and the one row of it that reaches a goal, with the command that makes it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import GraphError, RequestError
from ...graph_passes.compressors import changed
from ..bundling import device_fit
from ..evaluate.resolution import NAME as RESOLUTION
from ..opening import DEFAULT
from ..progress import Advance, log_of
from .choice import Chosen, Goal, Point, Points, choose, least_error
from .rows import Row, label, method_of
from .study import RATIOS, Request, Study
from .sweep import measured
from .workers import compute_by

if TYPE_CHECKING:
    from ...devices.profiles import Target


def recommend(
    source: str | None = None,
    out: Path | str | None = None,
    *,
    device: str | None = None,
    tokens: int | None = None,
    latency_ms: float | None = None,
    loss: float | None = None,
    methods: Sequence[str] = (),
    ratios: Sequence[str] = (),
    workers: int = 1,
    scheduler: str | None = None,
    advance: Advance = log_of,
    **asked: Any,
) -> dict[str, Any]:
    """Measure what `sweep.sweep` measures, and choose by one goal (rules: `choice`).

    Args:
        device: whose rules leave methods out, ``NAME`` or ``NAME@TENSORRT``; times are not the device's.
        tokens: the goal is the least loss with exactly so many tokens.
        latency_ms: the goal is the least loss within so many milliseconds, of this machine on one thread.
        loss: the goal is the least time with at most this loss of the figure.
        ratios: shares removed; none: those of a sweep. With `tokens` there are none.
        source, out, methods, workers, scheduler, advance: as in `sweep.sweep`, whose folder of cells is taken.
        asked: the other fields of `study.Request`.

    Returns:
        The content of sweep.json, which is not written, and ``goal``; ``loss``, ``error``, ``ms`` and ``pareto`` of its
        rows; ``recommended``, a row or None; ``why``; ``command``, None where `tokexport model` does not make it;
        ``instead``: ``recommended``, ``why`` and ``command`` without smaller pictures where those are recommended.

    Raises:
        RequestError, GraphError: exit 2. MissingError: exit 3.
    """
    goal = Goal(tokens, latency_ms, loss)
    goal.check()
    if tokens is not None and ratios:
        raise RequestError("--tokens and --ratio are given", fix="Leave --ratio out: all methods keep K tokens.")
    target = device_fit.target(device)
    request = Request(source, tuple(methods), tuple(ratios) or RATIOS, keep=tokens, **asked)
    compute = compute_by(request, workers, scheduler)
    study = Study(request)
    _check_count(study, goal)
    if target is not None:
        _leave_out(study, target)
    result, folder = measured(study, out, compute, advance)
    points = Points(result)
    chosen = choose(points, goal)
    points.mark()

    def told(chosen: Chosen) -> dict[str, Any]:
        row = chosen.point.row if chosen.point else None
        return {"recommended": row, "why": _why(points, chosen), "command": _command(request, device, chosen.point)}

    smaller = chosen.point is not None and chosen.point.name == RESOLUTION
    return {
        **result,
        "goal": {"tokens": tokens, "latency_ms": latency_ms, "loss": loss},
        "device": str(target) if target else None,
        **told(chosen),
        **({"instead": told(choose(points, goal, smaller_pictures=False))} if smaller else {}),
        "notes": [*result["notes"], *_notes(result, target)],
        "out": str(folder),
    }


def _check_count(study: Study, goal: Goal) -> None:
    """Refuse a loss that so few answers cannot show, before they are asked."""
    judge = study.judge
    least = least_error({"figure": judge.figure, "seeds": len(judge.seeds), **judge.facts})
    if goal.loss is not None and least > goal.loss:
        raise RequestError(
            f"{round(1 / least)} answers cannot show a loss of {goal.loss:g}: one of them is {least:.3g}",
            fix=f"Ask at least {math.ceil(1 / goal.loss)}, with more "
            f"{'files in --inputs' if study.request.inputs else '--questions or --seeds'}, or allow a larger --loss.",
        )


def _leave_out(study: Study, target: Target) -> None:
    """Measure no method that the device cannot run.

    Raises:
        GraphError: it can run none of them; the first reason.
    """
    able = [row for row in study.rows if row.compressor is not None and not row.reason]
    refused = [(row, error) for row in able if (error := _refused(study, target, row))]
    if able and len(refused) == len(able):
        raise refused[0][1]
    for row, error in refused:
        row.leave_out(error.what)


def _refused(study: Study, target: Target, row: Row) -> GraphError | None:
    """Why the device cannot run the encoder with the method of a row."""
    assert row.compressor is not None, "asked before"
    encoder, _ = study.bench.model(row.compressor).compressed(row.compressor, row.keep)
    return device_fit.refusal(target, encoder)


def _why(points: Points, chosen: Chosen) -> str:
    """The reason with the figures of what was chosen, and of the baselines at its budget."""
    point, whole = chosen.point, points.whole
    if point is None or point is whole:
        return chosen.why
    what = "encoder + prefill take" if "prefill_ms" in point.row else "the encoder takes"
    figures = (
        f"It keeps {point.keep} of {whole.keep} tokens and loses {point.loss:.3f} ± {point.error:.3f}; {what} "
        f"{point.ms:.2f} ms here, uncompressed {whole.ms:.2f} ms."
    )
    beside = points.at(point, ["uniform", "pool", RESOLUTION])
    others = [f"{one.name} ({one.keep}) {one.loss:.3f}" for one in beside if one.row is not point.row]
    return f"{chosen.why} {figures}" + (f" Baselines lose: {', '.join(others)}." if others else "")


def _command(request: Request, device: str | None, point: Point | None) -> str | None:
    """What to type; None for a smaller picture, of which the model is as it was."""
    if point is None or point.name == RESOLUTION:
        return None
    # All tokens, evenly spread, are the model without a compressor.
    compressor = method_of(_typed(request, "uniform" if point.name == "uncompressed" else point.name))
    settings = changed(compressor)
    # A file of weights is known by its name, and found by its path.
    settings |= {"weights": getattr(compressor, "weights", "")} if "weights" in settings else {}
    words = ["tokexport", "model", request.source or DEFAULT, "--method", compressor.method.name]
    words += [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    words += ["--keep", str(point.keep)]
    words += ["--seam", request.seam] if request.seam != "auto" else []
    words += ["--rebuild"] if request.rebuild else []
    words += ["--size-bias", request.size_bias] if request.size_bias != "auto" and compressor.method.merges else []
    words += ["--parts", request.parts] if request.parts != "all" else []
    words += ["--frames", str(request.frames)] if request.frames is not None else []
    words += ["--fps", f"{request.fps:g}"] if request.fps is not None else []
    words += ["--device", device] if device else []
    return shlex.join(words)


def _typed(request: Request, name: str) -> str:
    """A method as it was asked for; its label says it without the folders of its files."""
    return next((text for text in request.methods if label(method_of(text)) == name), name)


def _notes(result: dict[str, Any], target: Target | None) -> list[str]:
    judged = f"{result['questions']:,} x {result['seeds']} questions" if "questions" in result else "your inputs"
    notes = [
        f"the loss is that of: {result['metric']}; on {judged}, in fp32",
        f"times are those of this machine ({result['machine']['cpu']}), by ONNX Runtime in fp32 on one thread",
    ]
    if target is not None:
        notes.append(
            f"{target} was asked for its rules alone: times are not the device's. Its memory and the language graphs "
            "are checked by the command, which exports in the precision recommended for it"
        )
    return notes
