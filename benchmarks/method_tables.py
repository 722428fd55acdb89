"""Tables of what benchmarks/methods.py measured: all methods for docs/methods.md, the ten best for the README."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from report import RESULTS

BEST = 10

Rows = dict[str, dict[str, Any]]  # by ratio


def result(source: str) -> Path:
    """Where the figures of a model are kept."""
    return RESULTS / f"methods_{source.replace('-', '_')}.json"


def tiny_vlm() -> str:
    """All methods on pictures."""
    return _table("tiny-vlm", *_read("tiny-vlm"))


def tiny_video() -> str:
    """All methods on clips."""
    return _table("tiny-video", *_read("tiny-video"))


def tiny_asr() -> str:
    """All methods on sound."""
    return _table("tiny-asr", *_read("tiny-asr"))


def best_vlm() -> str:
    """The ten best on pictures, and the baselines."""
    return _best("tiny-vlm")


def best_video() -> str:
    """The ten best on clips, and the baselines."""
    return _best("tiny-video")


def best_asr() -> str:
    """The ten best on sound, and the baselines."""
    return _best("tiny-asr")


def ranked(source: str) -> list[str]:
    """The methods that reach every ratio, best in the mean over them first, each with its best parameters only."""
    data, methods = _read(source)
    ratios = _kept(data)
    whole = {name: rows for name, rows in methods.items() if set(rows) == set(ratios) and not _is_baseline(rows)}
    order = sorted(whole, key=lambda name: -sum(row["accuracy"] for row in whole[name].values()))
    first: dict[str, str] = {}
    for name in order:
        first.setdefault(name.partition(":")[0], name)
    return list(first.values())


def _best(source: str) -> str:
    data, methods = _read(source)
    baselines = [name for name, rows in methods.items() if _is_baseline(rows)]
    return _table(source, data, {name: methods[name] for name in [*ranked(source)[:BEST], *baselines]}, bold=True)


def _read(source: str) -> tuple[dict[str, Any], dict[str, Rows]]:
    data = json.loads(result(source).read_text())
    methods: dict[str, Rows] = {}
    for row in data["rows"]:
        if "accuracy" in row:
            methods.setdefault(row["method"], {})[row["ratio"]] = row
    return data, methods


def _kept(data: dict[str, Any]) -> dict[str, int]:
    """Tokens kept by ratio, most first."""
    kept = {row["ratio"]: row["keep"] for row in data["rows"] if row["method"] == "uniform"}
    return dict(sorted(kept.items(), key=lambda item: -item[1]))


def _is_baseline(rows: Rows) -> bool:
    return any(row["baseline"] for row in rows.values())


def _table(source: str, data: dict[str, Any], methods: dict[str, Rows], bold: bool = False) -> str:
    """A row for each method, best in the mean over what it reaches first; a merging one as without / with log(size)."""
    kept = _kept(data)
    head = [f"{keep} ({float(ratio):.0%} removed)" for ratio, keep in kept.items()]
    lines = [f"| {source}, kept of {data['tokens']} | " + " | ".join(head) + " |", "|---" * (len(kept) + 1) + "|"]
    best = {ratio: max(rows[ratio]["accuracy"] for rows in methods.values() if ratio in rows) for ratio in kept}

    def mean(name: str) -> float:
        return sum(row["accuracy"] for row in methods[name].values()) / len(methods[name])

    for name in sorted(methods, key=lambda name: (bold and _is_baseline(methods[name]), -mean(name))):
        rows = methods[name]
        cells = [_cell(rows[ratio], kept[ratio], best[ratio] if bold else 2) if ratio in rows else "" for ratio in kept]
        method, _, params = name.partition(":")
        lines.append(f"| `{method}`{' ' + params if params else ''} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(row: dict[str, Any], kept: int, best: float) -> str:
    text = share(row["accuracy"])
    if row["accuracy"] == best:
        text = f"**{text}**"
    if "deviation" in row:
        text += f" ± {share(row['deviation'])}"
    if "accuracy_without_bias" in row:
        text = f"{share(row['accuracy_without_bias'])} / {text}"
    return text if row["keep"] == kept else f"{row['keep']} tokens: {text}"


def share(value: float) -> str:
    """Three places, without the zero before the point."""
    return f"{value:.3f}".replace("0.", ".", 1)
