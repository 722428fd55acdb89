"""Loss against measured time to the 1st, 20th and 100th token of an answer: a table and a picture of four models.

    python benchmarks/pareto.py [MODEL ...] [--rounds N]
    python benchmarks/pareto.py --tables

tiny-vlm, tiny-video and tiny-asr, and Whisper tiny.en with its trained weights. What a setting loses is what results/
say of it, on 512 questions or 541 words of human speech; behind the first layer of the encoder, and where prefill reads
slots by position, it is measured here by `tokexport sweep`, whose cells are kept in build/pareto. What it takes is
measured here: the encoder and its compressor, prefill, and decode of a token, each as the one graph that a bundle has,
in turns with all other settings of the model, on one thread by this process's own time. Up to token n that is encoder +
prefill + (n - 1) x decode.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import method_tables
import tables
from pareto_table import BASELINES, NAME, TOKENS, front, is_baseline
from report import RESULTS, known, save
from tokexport.exporter.evaluate.bench import Bench
from tokexport.exporter.evaluate.cost import blank
from tokexport.exporter.opening import open_source
from tokexport.exporter.sources.texts import with_text
from tokexport.exporter.sources.torch_export import export_graph
from tokexport.exporter.sweeps.picture import COLOURS, GREY, MARKERS
from tokexport.exporter.sweeps.rows import method_of
from tokexport.exporter.sweeps.sweep import sweep
from tokexport.exporter.timing import interleaved
from tokexport.graph_passes.budget import tokens_kept
from tokexport.runtimes.ort.graph import ort_runner

WHISPER = "tiny.en"
SEAMS = {"behind": "auto", "inside": "encoder_layer:0"}
# Behind the encoder too, and read with --size-bias positions.
BY_POSITION = "by position"
RATIOS = {"behind": ("0.5", "0.75", "0.9"), "inside": ("0.5", "0.75"), BY_POSITION: ("0.5", "0.75", "0.9")}
METHODS = {
    "tiny-vlm": ("kcenter_merge", "two_scale", "tome:metric=tokens"),
    "tiny-video": ("kcenter_merge", "prunevid", "tome:metric=tokens"),
    "tiny-asr": ("kcenter_merge", "two_scale", "a_tome:metric=tokens"),
    WHISPER: ("kcenter_merge", "two_scale", "a_tome:metric=tokens"),
}
# The layers of tiny-video's encoder see each frame by itself.
PLACES = {
    "tiny-vlm": ("behind", "inside"),
    "tiny-video": ("behind", BY_POSITION),
    "tiny-asr": ("behind", "inside"),
    WHISPER: ("behind", "inside"),
}
# Its grid is not in the folder.
WHISPER_BASELINES = ("uniform", "random", "pool:grid=1500")
SEEDS = 10


@dataclass(frozen=True)
class Setting:
    """A method at a place.

    Attributes:
        method: as after ``--method``; ``uncompressed``.
        place: one of `SEAMS`, or `BY_POSITION`.
        keep: K.
        loss: answers or words that are wrong beside those of the uncompressed model, as a share of all.
    """

    method: str
    place: str
    keep: int
    loss: float

    @property
    def name(self) -> str:
        """Of tasks and rows."""
        return f"{self.method}, {self.place}, {self.keep}"


def settings(model: str) -> list[Setting]:
    """Of a model; those that it refuses are left out."""
    found = _of_words() if model == WHISPER else [*_of_questions(model)]
    return list({one.name: one for one in found}.values())


def _of_questions(model: str) -> Iterator[Setting]:
    wanted = (*METHODS[model], *BASELINES)
    for place in PLACES[model]:
        told = json.loads(method_tables.result(model).read_text()) if place == "behind" else _swept(model, place)
        whole = told["uncompressed"]
        if place == "behind":
            yield Setting("uncompressed", place, whole["keep"], 0.0)
        # By position baselines are what they are behind the encoder.
        rows = [row for row in told["rows"] if place != BY_POSITION or not row["baseline"]]
        for row in rows:
            if row["method"] in wanted and row["ratio"] in RATIOS[place] and "accuracy" in row:
                yield Setting(row["method"], place, row["keep"], round(whole["accuracy"] - row["accuracy"], 4))


def _swept(model: str, place: str) -> dict[str, Any]:
    return sweep(
        model,
        tables.ROOT / "build" / NAME / f"{model}-{place.replace(' ', '-')}",
        methods=METHODS[model],
        ratios=RATIOS[place],
        questions=512,
        seeds=1,
        seam=SEAMS.get(place, "auto"),
        size_bias="positions" if place == BY_POSITION else "auto",
        advance=lambda done, of, what: print(done, of, what, flush=True),
    )


def _of_words() -> Iterator[Setting]:
    told = json.loads((RESULTS / f"real_{WHISPER}.json").read_text())
    yield Setting("uncompressed", "behind", 1500, 0.0)
    for place, seam in SEAMS.items():
        where = seam if place == "inside" else place
        for ratio in RATIOS[place]:
            for method in (*METHODS[WHISPER], *WHISPER_BASELINES):
                name = method.replace(":", " ")
                names = [f"random seed={seed}" for seed in range(SEEDS)] if name == "random" else [name]
                keys = [f"{one}, {where}, {ratio}" for one in names]
                rows = [told.get(f"{key}, log(size)", told.get(key)) for key in keys]
                if all(rows):
                    loss = fmean(row["changed_full"] for row in rows)
                    yield Setting(method, place, tokens_kept(1500, ratio=ratio), round(loss, 4))


def measured(model: str, rounds: int) -> dict[str, dict[str, Any]]:
    """Each setting with its loss and times."""
    asked = settings(model)
    source: Any = open_source(_source(model), parts="all")
    benches = {place: Bench(source, seam) for place, seam in SEAMS.items() if any(s.place == place for s in asked)}
    encoders = {one.name: _encoder(benches.get(one.place, benches["behind"]), one) for one in asked}
    turns = partial(interleaved, rounds=rounds, warmup=2, clock=time.process_time)
    took = {"encoder": turns(encoders)}
    del encoders
    for role in ("prefill", "decode"):
        graphs = {one.name: (role == "prefill" and one.place == BY_POSITION, one.keep) for one in asked}
        sources = {
            False: source,
            True: source.read_by_position() if any(apart for apart, _ in graphs.values()) else None,
        }
        of_graph = turns({str(key): _language(sources[key[0]], role, key[1]) for key in dict.fromkeys(graphs.values())})
        took[role] = {name: of_graph[str(key)] for name, key in graphs.items()}
    table: dict[str, dict[str, Any]] = {}
    for one in asked:
        steps = {role: round(times[one.name], 3) for role, times in took.items()}
        to = {n: steps["encoder"] + steps["prefill"] + (n - 1) * steps["decode"] for n in TOKENS}
        row = {"method": one.method, "place": one.place, "keep": one.keep, "loss": one.loss}
        row |= {f"{role}_ms": ms for role, ms in steps.items()}
        table[one.name] = {**row, **{f"to_{n}_ms": round(ms, 3) for n, ms in to.items()}}
    whole = next(iter(table.values()))
    for row in table.values():
        row |= {f"to_{n}_times_faster": round(whole[f"to_{n}_ms"] / row[f"to_{n}_ms"], 2) for n in TOKENS}
    return table


def _source(model: str) -> str:
    if model != WHISPER:
        return model
    sys.path.insert(0, str(Path(__file__).with_name("real")))
    import checkpoint
    import packages

    return str(checkpoint.write(model, packages.FOLDER / f"whisper-{model}"))


def _encoder(bench: Bench, one: Setting) -> Callable[[], Any]:
    graph, (sample,) = bench.base.encoder, bench.source.real_inputs(1)
    if one.method != "uncompressed":
        graph, _ = bench.base.compressed(method_of(one.method), one.keep)
    (fed,) = with_text([sample], graph, bench.source)
    return partial(ort_runner(graph, threads=1), fed)


def _language(source: Any, role: str, keep: int) -> Callable[[], Any]:
    graph = export_graph(next(one for one in source.language(keep) if one.role == role))
    return partial(ort_runner(graph, threads=1), blank(graph))


def draw(results: dict[str, dict[str, dict[str, Any]]], target: Path) -> None:
    """A row of pictures a model, one for each token: loss against time, and the front."""
    from matplotlib.figure import Figure

    canvas = Figure(figsize=(11, 2.7 * len(results)), layout="constrained")
    grid = canvas.subplots(len(results), len(TOKENS), sharey="row", squeeze=False)
    styles = {method: (COLOURS[i], MARKERS[i]) for i, method in enumerate(dict.fromkeys(sum(METHODS.values(), ())))}
    greys = dict(zip(BASELINES, ("x", "+", "1")))
    for line, (model, rows) in zip(grid, results.items()):
        for axes, n in zip(line, TOKENS):
            whole = rows["uncompressed, behind, " + str(max(row["keep"] for row in rows.values()))][f"to_{n}_ms"]
            for row in rows.values():
                at = row[f"to_{n}_ms"] / whole, 100 * row["loss"]
                if row["method"] == "uncompressed":
                    axes.plot(*at, color="black", marker="*", markersize=12, linestyle="none")
                    continue
                colour, marker = (
                    ("black" if row["place"] == "inside" else GREY, greys[row["method"].partition(":")[0]])
                    if is_baseline(row)
                    else styles[row["method"]]
                )
                filled = {"inside": {"markerfacecolor": "white"}, BY_POSITION: {"fillstyle": "left"}}
                shape: dict[str, Any] = filled.get(row["place"], {"markerfacecolor": colour})
                axes.plot(*at, color=colour, marker=marker, markersize=7, linestyle="none", **shape)
            best = [(row[f"to_{n}_ms"] / whole, 100 * row["loss"]) for row in front(rows.values(), n)]
            axes.step(*zip(*best), where="post", color="black", linewidth=1, zorder=0)
            axes.set_yscale("symlog", linthresh=1)
            axes.set_yticks([0, 1, 10, 100], ["0", "1", "10", "100"])
            axes.set_ylim(bottom=-0.4)
            axes.grid(color="#E4E4E4", linewidth=0.8)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
            if model == next(iter(results)):
                axes.set_title(f"to token {n}", fontsize=11)
        line[0].set_ylabel(f"{model}\nloss, points")
    for axes in grid[-1]:
        axes.set_xlabel("time, of uncompressed")
    legend = {"uncompressed": ("black", "*"), **styles, **{name: (GREY, mark) for name, mark in greys.items()}}
    for name, (colour, marker) in legend.items():
        grid[0][0].plot([], [], color=colour, marker=marker, linestyle="none", label=name)
    grid[0][0].plot(
        [],
        [],
        color="black",
        marker="o",
        markerfacecolor="white",
        linestyle="none",
        label="open, or black: inside the encoder",
    )
    grid[0][0].plot(
        [], [], color="black", marker="o", fillstyle="left", linestyle="none", label="half: read by position"
    )
    handles, labels = grid[0][0].get_legend_handles_labels()
    canvas.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    canvas.savefig(target, dpi=110, metadata={"Software": None})


def main() -> None:
    """Measure, keep results/pareto.json and its picture, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(METHODS), help="all of them by default")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--tables", action="store_true", help="measure nothing")
    asked = parser.parse_args()
    kept = RESULTS / f"{NAME}.json"
    found = known(NAME)
    for model in () if asked.tables else asked.models:
        found[model] = measured(model, asked.rounds if model != WHISPER else max(3, asked.rounds // 3))
        save(NAME, {name: found[name] for name in METHODS if name in found}, f"python benchmarks/{NAME}.py")
    draw({name: found[name] for name in METHODS if name in found}, kept.with_suffix(".png"))
    tables.write()


if __name__ == "__main__":
    main()
