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
from ...runtimes.bundle.losses import refuse_loss
from ..bundling.graphs import versions
from ..evaluate.machine import machine
from ..progress import Advance, log_of
from .cells import FILE, PICTURE, TABLE, Cell, Cells, Compute
from .rows import BASELINES, Row, label
from .study import RATIOS, Request, Study
from .workers import compute_by

if TYPE_CHECKING:
    from ..sources.source import Parts


_BY_POSITION = "prefill reads merged tokens at the positions of all that is in them"


def sweep(
    source: str | None = None,
    out: Path | str | None = None,
    *,
    methods: Sequence[str] = (),
    ratios: Sequence[str] = (),
    seeds: int = 3,
    questions: int = 1024,
    inputs: Path | None = None,
    prompt: str | None = None,
    parts: Parts = "all",
    frames: int | None = None,
    fps: float | None = None,
    seam: str = "auto",
    rebuild: bool = False,
    size_bias: str = "auto",
    workers: int = 1,
    scheduler: str | None = None,
    advance: Advance = log_of,
) -> dict[str, Any]:
    """Judge methods at ratios, and write sweep.json and sweep.png.

    Args:
        source: as in `pipeline.export`.
        out: folder for the results and the cells; None: ``./<source>-sweep``. Cells that it has are not computed again.
        methods: ``apet`` or ``apet:merge=false,basis=16``; none: all that fit the model's modality.
        ratios: shares removed; none: 0.5, 0.75, 0.85 and 0.9.
        seeds, questions: sets of questions, and how many are in each.
        inputs: a folder of images, videos or sounds; agreement on it is judged instead of the model's questions.
        prompt: asked about each input.
        parts: with ``encoder`` no language model is read, and tokens are judged, not answers.
        frames, fps: as in `pipeline.export`.
        seam: where all methods go; ``auto``: each where its paper has it.
        rebuild: with a seam in the encoder, of methods and baselines alike, as in `pipeline.export`.
        size_bias: ``auto`` or ``positions``, likewise.
        workers: processes that compute cells side by side, each with the model open.
        scheduler: address of a Dask scheduler whose workers compute them instead.
        advance: called after each cell: how many are done, how many there are, and what it was.

    Returns:
        The content of sweep.json: the request, ``uncompressed``, and ``rows``.

    Raises:
        RequestError, GraphError: exit 2, also where a file in `out` that is not of a sweep would be overwritten.
        MissingError: exit 3.
    """
    from .picture import draw

    asked = (seeds, questions, inputs, prompt, parts, seam)
    request = Request(
        source,
        tuple(methods),
        tuple(ratios) or RATIOS,
        *asked,
        frames=frames,
        fps=fps,
        rebuild=rebuild,
        size_bias=size_bias,
    )
    compute = compute_by(request, workers, scheduler)
    result, folder = measured(Study(request), out, compute, advance)
    (folder / TABLE).write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    draw(result, folder / PICTURE)
    return {**result, "out": str(folder)}


def measured(study: Study, out: Path | str | None, compute: Compute, advance: Advance) -> tuple[dict[str, Any], Path]:
    """Compute what the folder has not yet, and make the table.

    Args:
        study: its rows are those of the table.
        out: as in `sweep`.
        compute: gives the figures of cells.
        advance: as in `sweep`.

    Returns:
        The content of sweep.json, which is not written, and the folder.

    Raises:
        RequestError: as `sweep`; an uncompressed model that answers nothing right.
    """
    # Only now: a refused request must leave no folder.
    folder = Path(out) if out is not None else Path(f"{study.source.name}-sweep")
    _check_folder(folder, study.request.inputs, study.files)
    judge, whole, rows = study.judge, study.whole, study.rows
    cells = Cells(folder)
    wanted = {cell.name: cell for row in [whole, *rows] for cell in row.cells()}
    found, done = sum(cell in cells for cell in wanted.values()), 0

    def count(cell: Cell) -> None:
        nonlocal done
        done += 1
        advance(done, len(wanted), f"{cell.key['what']} {cell.key['method']} {cell.key['keep']}")

    cells.complete(wanted.values(), count, compute)
    full = _figures(whole, cells, judge.figure, {})
    if not full[judge.figure]:
        raise RequestError(
            f"uncompressed, {study.source.name} answers none of these questions right: there is nothing to lose",
            fix="Ask more: --questions 512.",
        )
    result = {
        "source": study.source.record().model_dump(),
        "figure": judge.figure,
        "metric": judge.metric,
        "seeds": len(judge.seeds),
        **judge.facts,
        "tokens": whole.keep,
        "cells": {"all": len(wanted), "found": found},
        "uncompressed": full,
        "rows": [_figures(row, cells, judge.figure, full) for row in rows],
        "notes": [*judge.notes, *([_BY_POSITION] if study.source.by_position else [])],
        **machine(),
        "versions": versions(),
    }
    return result, folder


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
    if row.picture:
        shown["picture"] = row.picture
    for cell in row.encoder:
        times = cells[cell]
        shown |= {name: times[name] for name in ("encoder_ms", "compressor_ms") if name in times}
        shown["encoder_gain"] = times["uncompressed_ms"] / times["encoder_ms"]
    for cell in row.prefill:
        times = cells[cell]
        shown |= {"prefill_ms": times["prefill_ms"], "prefill_gain": times["uncompressed_ms"] / times["prefill_ms"]}
    return shown
