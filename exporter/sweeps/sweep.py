"""`sweep()`: methods x ratios on one model, judged by its questions or by agreement on the user's own inputs.

A row is a method at a ratio; its figures are cells, each computed once and kept in the folder (`cells.py`). Baselines
are added to the requested methods: uniform, random over ten seeds, pool with its own number of tokens, and of pictures
a lower resolution. Where it is known which tokens matter, so is the oracle that selects those first.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any

from ...errors import RequestError
from ...graph_passes.budget import parse_ratio
from ...graph_passes.compressors import make, methods
from ...graph_passes.compressors.blocks.texts import TEXT
from ...runtimes.bundle.losses import refuse_loss
from ..bundling import variants
from ..bundling.graphs import versions
from ..evaluate.bench import Bench
from ..evaluate.judges import Folder, Judge, Questions
from ..evaluate.machine import machine
from ..progress import Advance, log_of
from ..sources.clip import clip_of
from ..sources.texts import refuse_text
from .cells import FILE, PICTURE, TABLE, Cell, Cells
from .rows import BASELINES, Plan, Row, label, method_of

if TYPE_CHECKING:
    from ...graph_passes.compressors import Compressor
    from ..sources.clip import Clip
    from ..sources.source import Parts, Source

RATIOS = ("0.5", "0.75", "0.85", "0.9")

# Of one cell that is done: how many are done, how many there are, and what it was.


def sweep(
    source: str | None = None,
    out: Path | str | None = None,
    *,
    methods: Sequence[str] = (),
    ratios: Sequence[str] = RATIOS,
    seeds: int = 3,
    questions: int = 1024,
    inputs: Path | None = None,
    prompt: str | None = None,
    parts: Parts = "all",
    frames: int | None = None,
    fps: float | None = None,
    seam: str = "auto",
    advance: Advance = log_of,
) -> dict[str, Any]:
    """Judge methods at ratios, and write sweep.json and sweep.png.

    Args:
        source: as in `pipeline.export`.
        out: folder for the results and the cells; None: ``./<source>-sweep``. Cells that it has are not computed again.
        methods: ``apet`` or ``apet:merge=false,basis=16``; none: all that fit the model's modality.
        ratios: shares removed.
        seeds, questions: sets of questions, and how many are in each.
        inputs: a folder of images, videos or sounds; agreement on it is judged instead of the model's questions.
        prompt: asked about each input.
        parts: with ``encoder`` no language model is read, and tokens are judged, not answers.
        frames, fps: as in `pipeline.export`.
        seam: where all methods go; ``auto``: each where its paper has it.
        advance: called after each cell.

    Returns:
        The content of sweep.json: the request, ``uncompressed``, and ``rows``.

    Raises:
        RequestError, GraphError: exit 2, also where a file in `out` that is not of a sweep would be overwritten.
        MissingError: exit 3.
    """
    from .picture import draw

    asked = [method_of(text) for text in methods]
    _check_asked(ratios, seeds, questions, seam)
    opened = _opened(source, parts, clip_of(frames, fps), asked, inputs, prompt)
    bench = Bench(opened, seam)
    judge: Judge = Folder(bench, inputs, prompt) if inputs else Questions(bench, questions, seeds)
    # Only now: a refused request must leave no folder.
    folder = Path(out) if out is not None else Path(f"{opened.name}-sweep")
    _check_folder(folder, inputs, [*opened.files, *variants.files(asked)])
    cells = Cells(folder)
    chosen = asked or [make(name) for name in _fitting(opened, _asks(opened))]
    plan = Plan(bench, judge)
    whole = plan.uncompressed()
    rows = [row for ratio in dict.fromkeys(ratios) for row in plan.rows(chosen, ratio)]
    wanted = {cell.name: cell for row in [whole, *rows] for cell in row.cells()}
    found, done = sum(cell in cells for cell in wanted.values()), 0

    def count(cell: Cell) -> None:
        nonlocal done
        done += 1
        advance(done, len(wanted), f"{cell.key['what']} {cell.key['method']} {cell.key['keep']}")

    cells.complete(wanted.values(), count)
    full = _figures(whole, cells, judge.figure, {})
    result = {
        "source": opened.record().model_dump(),
        "figure": judge.figure,
        "metric": judge.metric,
        "seeds": len(judge.seeds),
        **judge.facts,
        "tokens": whole.keep,
        "cells": {"all": len(wanted), "found": found},
        "uncompressed": full,
        "rows": [_figures(row, cells, judge.figure, full) for row in rows],
        "notes": judge.notes,
        **machine(),
        "versions": versions(),
    }
    (folder / TABLE).write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    draw(result, folder / PICTURE)
    return {**result, "out": str(folder)}


def _check_asked(ratios: Sequence[str], seeds: int, questions: int, seam: str) -> None:
    for ratio in ratios:
        parse_ratio(ratio)
    if seeds < 1 or questions < 1:
        raise RequestError(f"{seeds} seeds of {questions} questions are no questions", fix="Ask at least one of each.")
    if seam.startswith("decoder_layer:"):
        raise RequestError(
            f"a sweep compares what encoders keep, and seam {seam} is in the language model",
            fix=f"Export each: tokexport model SOURCE --method cls_topk --seam {seam} --ratio 0.5.",
        )


def _opened(
    source: str | None,
    parts: Parts,
    clip: Clip | None,
    asked: Sequence[Compressor],
    inputs: Path | None,
    prompt: str | None,
) -> Source:
    """The model, which these methods and inputs can be judged by."""
    from ..opening import open_source

    opened = open_source(source, parts=parts, clip=clip)
    _check_task(opened, asked, inputs, prompt)
    return opened


def _check_task(opened: Source, asked: Sequence[Compressor], inputs: Path | None, prompt: str | None) -> None:
    """Refuse a model without questions where no inputs are given, and methods that read one where none is asked."""
    for method in () if _asks(opened) else asked:
        fix = "Leave it out; tokexport model --parts encoder takes it."
        refuse_text(method, f"a sweep asks {opened.name} no question", fix)
    if inputs is None and not opened.has_task:
        raise RequestError(
            f"{opened.name} has no questions with known answers",
            fix="Give a folder of your images, videos or sounds: --inputs FOLDER. Agreement with the uncompressed "
            "model is judged then.",
        )
    if inputs is None and prompt is not None:
        raise RequestError("--prompt goes with --inputs", fix="Give the folder whose files it is asked about.")


def _check_folder(folder: Path, inputs: Path | None, sources: Sequence[Path]) -> None:
    """Refuse a folder in which the results would overwrite something other than results."""
    if inputs is not None and folder.exists() and folder.samefile(inputs):
        raise RequestError(
            "-o names the folder of --inputs, where the picture of the results would count as one of the inputs",
            where=str(folder),
            fix="Name a folder of its own: -o NAME.",
        )
    for name in (FILE, TABLE, PICTURE):
        refuse_loss(folder / name, [*sources, *([inputs] if inputs else [])])
        if (folder / name).exists() and not (folder / FILE).exists():
            raise RequestError(
                f"the folder for the results has a file {name} that is not of a sweep: there is no {FILE} beside it",
                where=str(folder),
                fix="Move that file elsewhere, or name another folder: -o FOLDER.",
            )


def _asks(source: Source) -> bool:
    """Whether a question about each input reaches the model, as text that a method can read too."""
    return bool(source.text_seam) and source.generation(1) is not None


def _fitting(source: Source, asks: bool) -> list[str]:
    """The methods, without baselines, for the model's modality."""
    fitting = [method for method in methods() if source.takes in method.modalities and method.family != "baseline"]
    known = [method.name for method in fitting if method.name not in BASELINES]
    return [name for name in known if asks or TEXT not in make(name).signals()]


def _figures(row: Row, cells: Cells, figure: str, full: dict[str, Any]) -> dict[str, Any]:
    """A row of sweep.json."""
    compressor = row.compressor
    shown: dict[str, Any] = {
        "method": row.label,
        "baseline": compressor is None or label(compressor) in BASELINES,
        "merges": compressor is not None and compressor.method.merges,
        "ratio": row.ratio,
        "keep": row.keep,
    }
    if row.reason:
        return {**shown, "reason": row.reason}
    scores = [[cells[cell] for cell in run] for run in row.runs]
    means = [fmean(score[figure] for score in run) for run in scores]
    shown[figure] = fmean(means)
    shown["stderr"] = sum(score["stderr"] ** 2 for score in scores[0]) ** 0.5 / len(scores[0])
    if len(means) > 1:
        shown["deviation"] = pstdev(means)
    if row.without:
        without = [cells[cell] for cell in row.without]
        shown[f"{figure}_without_bias"] = fmean(score[figure] for score in without)
        shown["stderr_without_bias"] = sum(score["stderr"] ** 2 for score in without) ** 0.5 / len(without)
    if figure == "agreement":
        shown["cosine"] = fmean(score["cosine"] for run in scores for score in run)
    if full:
        shown["share"] = shown[figure] / full[figure]
    for cell in row.encoder:
        times = cells[cell]
        shown |= {name: times[name] for name in ("encoder_ms", "compressor_ms") if name in times}
        shown["encoder_gain"] = times["uncompressed_ms"] / times["encoder_ms"]
    for cell in row.prefill:
        times = cells[cell]
        shown |= {"prefill_ms": times["prefill_ms"], "prefill_gain": times["uncompressed_ms"] / times["prefill_ms"]}
    return shown
