"""Tables of docs/ideas.md, from results/ideas.json, ideas_tiny.en.json and same_tokens.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
from method_tables import share
from report import RESULTS

MODELS = ("tiny-vlm", "tiny-video", "tiny-asr")


def _read(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text())["results"]


def idea_merging() -> str:
    """Each idea for methods that merge, against log(size)."""
    return _means("merging")


def idea_selecting() -> str:
    """Each idea for methods that select, against no bias."""
    return _means("selecting")


def _means(kind: str) -> str:
    found = _read("ideas")
    lines = ["| idea | " + " | ".join(MODELS) + " |", "|---" * (1 + len(MODELS)) + "|"]
    for idea in found["tiny-vlm"]["first"][kind]["ideas"]:
        cells = []
        for model in MODELS:
            means = [
                found[model].get(name, {}).get(kind, {}).get("ideas", {}).get(idea) for name in ("first", "second")
            ]
            cells.append("; ".join(_gain(mean) for mean in means if mean) or "nothing to change")
            if means[1] and means[1]["gain"] > 2 * means[1]["stderr"]:
                cells[-1] = f"**{cells[-1]}**"
        lines.append(f"| {idea} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _gain(mean: dict[str, float]) -> str:
    sign = "-" if mean["gain"] < 0 else "+"
    return f"{sign}{share(abs(mean['gain']))} ± {share(mean['stderr'])}"


def _head(first: str, ratios: Sequence[str]) -> list[str]:
    """The head of a table of methods by ratio."""
    removed = [f"{float(ratio):.0%} removed" for ratio in ratios]
    return [f"| {first} | method | " + " | ".join(removed) + " |", "|---" * (2 + len(ratios)) + "|"]


def idea_picks() -> str:
    """What selections reach, cell by cell, on the second set."""
    found = _read("ideas")
    ratios = list(found["tiny-vlm"]["second"]["selecting"]["rows"]["uniform"])
    lines = _head("model", ratios)
    for model in MODELS:
        second = found[model]["second"]
        for method, rows in second["selecting"]["rows"].items():
            cells = [" / ".join(_selected(rows[ratio])) for ratio in ratios]
            lines.append(f"| {model} | `{method}` | " + " | ".join(cells) + " |")
        for method in ("kcenter_merge", "two_scale"):
            cells = [share(second["merging"]["rows"][method][ratio]["plain"]) for ratio in ratios]
            lines.append(f"| {model} | *`{method}`, log(size)* | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _selected(row: dict[str, Any]) -> list[str]:
    """No bias, members counted, and averaged too."""
    ideas = [row[idea]["score"] if idea in row else None for idea in ("log(members)", "log(members), averaged")]
    return [share(row["plain"]), *("" if score is None else share(score) for score in ideas)]


def idea_words() -> str:
    """Words changed on Whisper tiny.en."""
    found = _read("ideas_tiny.en")
    words = found["words"]
    ratios = sorted({row["ratio"] for row in found["rows"]})
    lines = [f"| of {words} words, changed | " + " | ".join(f"{ratio:.0%} removed" for ratio in ratios) + " |"]
    lines.append("|---" * (1 + len(ratios)) + "|")
    cells: dict[str, list[str]] = {}
    for _, group in groupby(found["rows"], lambda row: (row["method"], row["ratio"])):
        plain: list[int] | None = None
        for row in group:
            text = str(sum(row["changed"]))
            if plain is None:
                plain = row["changed"]
            else:
                off = np.array(plain) - row["changed"]
                text += f" ({off.sum():+d} ± {np.sqrt(np.square(off - off.mean()).sum()):.1f})"
            method, _, params = row["method"].partition(":")
            name = f"`{method}`{' ' + params if params else ''}, {row['idea']}"
            cells.setdefault(name, []).append(text)
    return "\n".join([*lines, *(f"| {name} | " + " | ".join(row) + " |" for name, row in cells.items())])


def idea_same() -> str:
    """Duplicates out first."""
    lines = ["| pictures | equal is | tokens left, mean (most) | answers right | otherwise |", "|---" * 5 + "|"]
    for kind, found in _read("same_tokens").items():
        whole = share(found["uncompressed"])
        for limit, row in found["patches"].items():
            what = "patches, every pixel" if limit == "0" else f"patches, pixels within {limit} of 255"
            lines.append(f"| {kind} | {what} | {_left(row)} | {share(row['right'])} | {whole} with all |")
        for limit, row in found["tokens"].items():
            what = f"tokens behind the encoder, within {float(limit):.0%} of their norm"
            other = f"{share(row['kcenter_merge'])}: `kcenter_merge` with {round(row['tokens'])}"
            lines.append(f"| {kind} | {what} | {_left(row)} | {share(row['right'])} | {other} |")
    return "\n".join(lines)


def _left(row: dict[str, Any]) -> str:
    return f"{row['tokens']:.1f} ({row['bucket']})"


def idea_by_position() -> str:
    """log(size) alone, and with members read at their positions, through exported graphs."""
    found = _read("by_position")
    ratios = [*next(iter(found["tiny-video"]["rows"].values()))]
    lines = _head("model", ratios)
    for model, measured in found.items():
        whole = f"{model}, {share(measured['uncompressed'])} with all"
        for method, cells in measured["rows"].items():
            shown = [_both(cells[ratio]) if ratio in cells else "" for ratio in ratios]
            name = f"`{method}`" if any("positions" in cell for cell in cells.values()) else f"*{method}*"
            lines.append(f"| {whole} | {name} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def _both(cell: dict[str, Any]) -> str:
    if "positions" not in cell:
        return share(cell["auto"])
    gain = _gain({"gain": cell["positions"] - cell["auto"], "stderr": cell["stderr"]})
    return f"{share(cell['auto'])} / {share(cell['positions'])}<br><sub>{gain}</sub>"


def idea_ours() -> str:
    """What came of them, beside the best there were."""
    found = _read("ideas")
    ratios = list(found["tiny-vlm"]["ours"]["rows"]["kcenter_merge"])
    lines = _head("model, questions", ratios)
    for model, measured in found.items():
        fresh = measured["ours"]
        for name, rows in fresh["rows"].items():
            cells = []
            for ratio in ratios:
                row = rows[ratio]
                against = [_gain(row[rival]) for rival in ("kcenter_merge", "two_scale") if rival in row]
                cells.append(share(row["score"]) + (f"<br><sub>{'; '.join(against)}</sub>" if against else ""))
            method, _, params = name.partition(":")
            label = f"`{method}`{' ' + params if params else ''}"
            lines.append(f"| {model}, {fresh['questions']:,} | {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
