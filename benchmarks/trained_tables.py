"""Tables of trained Whisper on human speech for docs/, from results/real_*.json."""

from __future__ import annotations

import json
import textwrap
from statistics import mean, stdev
from typing import Any

from report import RESULTS

# Share removed, layers before it: the columns.
PLACES = {
    "behind, 50%": "behind, 0.5",
    "75%": "behind, 0.75",
    "85%": "behind, 0.85",
    "90%": "behind, 0.9",
    "inside, 50%": "encoder_layer:0, 0.5",
    "inside, 75%": "encoder_layer:0, 0.75",
}
STEPS = ("encoder", "prefill", "token", "whole")
LOG_SIZE = ", log(size)"

Cells = dict[str, dict[str, float]]


def whisper_tiny() -> str:
    """Words changed on tiny.en by methods as they are meant to be used, and the encoder's time."""
    return _words("tiny.en", _times(), both=("kcenter_merge",))


def whisper_base() -> str:
    """Words changed on base."""
    return _words("base", {}, both=())


def whisper_all() -> str:
    """Words changed on tiny.en by all that was measured."""
    return _words("tiny.en", {}, both=None)


def whisper_base_all() -> str:
    """Words changed on base by all that was measured."""
    return _words("base", {}, both=None)


def whisper_times() -> str:
    """Steps and whole transcripts beside other programs, as ratios of the uncompressed bundle's times."""
    found = json.loads((RESULTS / "real_times_tiny.en.json").read_text())
    plain = found["rows"]["uncompressed"]
    head = f"a clip of {found['seconds']:g} s, {_clock(found)}"
    lines = [
        f"| {head} | encoder | prefill | a token | whole transcript | words changed |",
        "|---|---|---|---|---|---|",
    ]
    ones = [f"1 ({plain[f'{step}_ms']:.3g} ms)" for step in STEPS]
    for name, row in found["rows"].items():
        steps = [f"{row[f'{step}_of_uncompressed']:.2f}" for step in STEPS]
        lines.append(
            f"| {name} | "
            + " | ".join(ones if row is plain else steps)
            + f" | {_share(row['changed'])} of {row['words']} |"
        )
    return "\n".join(lines)


def _clock(found: dict[str, Any]) -> str:
    clock = "its own time on one thread" if found["clock"] == "own time" else f"{found['threads']} threads"
    return clock + (f", {found['load']:g} cores used by others" if found["load"] > 0.2 else "")


def _times() -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = json.loads((RESULTS / "real_speed_tiny.en.json").read_text())
    return found


def _words(model: str, times: dict[str, dict[str, float]], both: tuple[str, ...] | None) -> str:
    """A table, best mean first.

    Args:
        model: whose words.
        times: method -> its encoder's, half removed inside it.
        both: methods that merge and are shown without log(size) too; None: all.
    """
    cells: Cells = json.loads((RESULTS / f"real_{model}.json").read_text())
    plain = cells["uncompressed"]
    head = f"| {model}: words changed of {plain['words_short']} / {plain['words_full']} | " + " | ".join(PLACES)
    lines = [head + (" | encoder / `tome` |" if times else " |"), "|---" * (len(PLACES) + 1 + bool(times)) + "|"]
    rows: dict[str, dict[str, dict[str, float]]] = {}
    for key, cell in cells.items():
        name, _, rest = key.partition(", ")
        place = rest.removesuffix(LOG_SIZE)
        merges = any(f"{name}, {each}{LOG_SIZE}" in cells for each in PLACES.values())
        alone = merges and not rest.endswith(LOG_SIZE)
        shown = place in PLACES.values() and not name.startswith("random")
        if shown and (not alone or both is None or name in both):
            rows.setdefault(name + (LOG_SIZE if merges and not alone else ""), {})[place] = cell
    for name in sorted(rows, key=lambda name: (name == "uniform", _mean_changed(rows[name]))):
        timed = times.get(name.split()[0].rstrip(",")) if name.endswith(LOG_SIZE) or name == "uniform" else None
        last = [f"{timed['work_of_tome']:.2f}" if timed and "keys" not in name else ""] if times else []
        row = [_pair(rows[name].get(place)) for place in PLACES.values()]
        lines.append("| " + " | ".join([_label(name), *row, *last]) + " |")
    lines.append("| " + " | ".join([*_random(cells), *([""] if times else [])]) + " |")
    shorter = [
        f"of {key.removeprefix('window ')} s {_share(cell['changed_short'])} of {cell['words_short']}"
        for key, cell in cells.items()
        if key.startswith("window ")
    ]
    told = f"A shorter window with nothing removed changes, in the short clips that fit: {', '.join(shorter)} words. "
    told += f"Word error rate with nothing removed: {_share(plain['error_rate'])}."
    return "\n".join([*lines, "", *textwrap.wrap(told, 120)])


def _mean_changed(row: dict[str, dict[str, float]]) -> float:
    """Over the places that every method reaches; a place where all is lost, or that was not measured, counts as 1."""
    cells = [row.get(PLACES[name]) for name in ("behind, 50%", "75%", "inside, 50%", "inside, 75%")]
    return mean(min(1.0, (cell["changed_short"] + cell["changed_full"]) / 2) if cell else 1.0 for cell in cells)


def _label(name: str) -> str:
    method, _, params = name.removesuffix(LOG_SIZE).partition(" ")
    return f"`{method}` {params}".strip() + (" + log(size)" if name.endswith(LOG_SIZE) else "")


def _random(cells: Cells) -> list[str]:
    """The row of random choices: mean and deviation over the seeds that were measured."""
    row, counts = [], set()
    for place in PLACES.values():
        drawn = [cell for key, cell in cells.items() if key.startswith("random ") and key.endswith(f", {place}")]
        counts.add(len(drawn))
        means = [mean(cell[f"changed_{name}"] for cell in drawn) for name in ("short", "full")] if drawn else []
        spread = (
            [stdev(cell[f"changed_{name}"] for cell in drawn) for name in ("short", "full")] if len(drawn) > 1 else []
        )
        text = " / ".join(_share(value) for value in means)
        row.append(text + (" ± " + " / ".join(_share(value) for value in spread) if spread else ""))
    seeds = f"{min(counts)}" if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
    return [f"`random`, {seeds} seeds, mean ± deviation", *row]


def _pair(cell: dict[str, Any] | None) -> str:
    return f"{_share(cell['changed_short'])} / {_share(cell['changed_full'])}" if cell else ""


def _share(value: float) -> str:
    return f"{value:.2f}" if value >= 1 else f"{value:.3f}".removeprefix("0")
