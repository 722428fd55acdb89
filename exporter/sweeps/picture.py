"""The picture of a sweep: accuracy or agreement against the tokens kept, and against time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import MissingError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, which colour-blind readers can tell apart, without the yellow, which is faint on white.
# Markers differ too, for prints in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v", "P")
GREY = "#6E6E6E"
DASHES: dict[str, Any] = {
    "uniform": "--",
    "pool": "-.",
    "resolution": (0, (6, 2)),
    "oracle": ":",
    "oracle, merged": (0, (4, 1, 1, 1)),
}
PALE = "#C9C9C9"
# More lines than this cannot be distinguished: the best are named, the others are drawn pale.
NAMED = 8


def draw(result: dict[str, Any], target: Path) -> None:
    """Draw the content of sweep.json as a PNG.

    Raises:
        MissingError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingError("the picture needs matplotlib", fix='pip install "tokexport[export]"') from None

    figure = result["figure"]
    rows = [row for row in result["rows"] if figure in row]
    timed = all("prefill_ms" in row for row in rows if "encoder_ms" in row)
    canvas = Figure(figsize=(11, 5.4), layout="constrained")
    left, right = canvas.subplots(1, 2, sharey=True)
    _over_tokens(left, result, rows)
    _over_time(right, result, rows, timed)
    for axes in (left, right):
        axes.grid(color="#E4E4E4", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.axhline(result["uncompressed"][figure], color="black", linewidth=1, linestyle=(0, (1, 2)))
    left.set_ylabel(result["metric"])
    handles, labels = left.get_legend_handles_labels()
    canvas.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    counted = f"{result['questions']:,} questions x {result['seeds']}" if "questions" in result else "your own inputs"
    canvas.suptitle(f"{result['source']['name']}, {counted}", fontsize=12)
    canvas.savefig(target, dpi=130, metadata={"Software": None})


def _series(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The rows of each method, fewest tokens first."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["keep"]):
        found.setdefault(row["method"], []).append(row)
    return found


def _styles(rows: list[dict[str, Any]], figure: str) -> dict[str, tuple[str, str]]:
    """Colour and marker of the `NAMED` best methods; beyond the palette, colours repeat with other markers.

    Best by the sum over the ratios, where a ratio that a method does not reach counts as 0.
    """
    methods = {name: of for name, of in _series(rows).items() if not of[0]["baseline"]}
    best = sorted(methods, key=lambda name: -sum(row[figure] for row in methods[name]))[:NAMED]
    return {
        name: (COLOURS[i % len(COLOURS)], MARKERS[(i + i // len(COLOURS)) % len(MARKERS)])
        for i, name in enumerate(sorted(best))
    }


def _over_tokens(axes: Axes, result: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    figure, styles = result["figure"], _styles(rows, result["figure"])
    others = 0
    axes.plot([], [], color="black", linewidth=1, linestyle=(0, (1, 2)), label="uncompressed")
    for name, of in _series(rows).items():
        kept, value = [row["keep"] for row in of], [row[figure] for row in of]
        if "deviation" in of[0]:
            spread = [row["deviation"] for row in of]
            low, high = ([v + sign * s for v, s in zip(value, spread)] for sign in (-1, 1))
            axes.fill_between(kept, low, high, color=GREY, alpha=0.25, linewidth=0, label=f"{name}, ± deviation")
            axes.plot(kept, value, color=GREY, linewidth=1)
        elif of[0]["baseline"]:
            dashes = DASHES[name]
            axes.plot(kept, value, color=GREY, linewidth=1.6, linestyle=dashes, marker=".", label=name)
        elif name not in styles:
            others += 1
            axes.plot(kept, value, color=PALE, linewidth=0.9, zorder=1)
        else:
            colour, marker = styles[name]
            biased = f"{figure}_without_bias" in of[0]
            named = f"{name}, with log(size)" if biased else name
            axes.plot(kept, value, color=colour, marker=marker, linewidth=1.8, label=named)
            if biased:
                without = [row[f"{figure}_without_bias"] for row in of]
                axes.plot(
                    kept, without, color=colour, marker=marker, markerfacecolor="white", linewidth=1.2, linestyle="--",
                    label=f"{name}, without",
                )  # fmt: skip
    if others:
        axes.plot([], [], color=PALE, linewidth=0.9, label=f"{others} other methods")
    axes.set_xlabel(f"tokens kept of {result['tokens']}")
    axes.set_xticks(sorted({row["keep"] for row in rows}))


def _over_time(axes: Axes, result: dict[str, Any], rows: list[dict[str, Any]], timed: bool) -> None:
    """Every method that was timed, and the Pareto front of time and score."""
    figure, styles, full = result["figure"], _styles(rows, result["figure"]), result["uncompressed"]
    points = []
    for row in rows:
        if "encoder_ms" not in row:
            continue
        spent = row["encoder_ms"] + (row["prefill_ms"] if timed else 0)
        points.append((spent, row[figure]))
        colour, marker = styles.get(row["method"], (GREY if row["baseline"] else PALE, "."))
        axes.plot(spent, row[figure], color=colour, marker=marker, markersize=7, linestyle="none")
    front, best = [], float("-inf")
    for spent, value in sorted(points, key=lambda point: (point[0], -point[1])):
        if value > best:
            front.append((spent, value))
            best = value
    if front:
        axes.step(*zip(*front), where="post", color="black", linewidth=1, zorder=0)
        axes.annotate("nothing is both\nfaster and better", front[0], xytext=(10, -4), textcoords="offset points",
                      fontsize=8, color="#333333", va="top")  # fmt: skip
    whole = full["encoder_ms"] + (full["prefill_ms"] if timed else 0)
    axes.plot(whole, full[figure], color="black", marker="*", markersize=12, linestyle="none")
    axes.annotate("uncompressed", (whole, full[figure]), xytext=(-8, -12), textcoords="offset points", fontsize=8,
                  ha="right")  # fmt: skip
    axes.set_xlabel("encoder + prefill, ms on one thread" if timed else "encoder, ms on one thread")
