"""Tables of sweeps: all methods and a closer look for docs/methods.md, the ten best for docs/built-in-models.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from report import RESULTS

BEST = 10

Rows = dict[str, dict[str, Any]]  # by ratio


def result(source: str) -> Path:
    """The file with the figures of a model."""
    return RESULTS / f"methods_{source.replace('-', '_')}.json"


def tiny_vlm() -> str:
    """All methods on pictures."""
    return _all("tiny-vlm")


def tiny_ocr() -> str:
    """All methods on numbers."""
    return _all("tiny-ocr")


def tiny_video() -> str:
    """All methods on clips."""
    return _all("tiny-video")


def tiny_asr() -> str:
    """All methods on sound."""
    return _all("tiny-asr")


def hybrid() -> str:
    """What merging costs a hybrid, by where a merged token counts as all that it stands for."""
    rows = json.loads((RESULTS / "hybrid_sizes.json").read_text())["results"]["answers right"]
    ways = [f"hybrid, {way}" for way in ("none", "attention", "linear", "both", "exported")]
    columns = [*ways, "tiny-vlm, none", "tiny-vlm, attention"]
    lines = ["| kept of 144 | " + " | ".join(columns) + " |", "|---" * (1 + len(columns)) + "|"]
    for name, row in rows.items():
        lines.append(f"| {name} | " + " | ".join(f"{row[key]:.3f}" if key in row else "" for key in columns) + " |")
    return "\n".join(lines)


def best_vlm() -> str:
    """The ten best on pictures, and the baselines."""
    return _best("tiny-vlm")


def best_ocr() -> str:
    """The ten best on numbers, and the baselines."""
    return _best("tiny-ocr")


def best_video() -> str:
    """The ten best on clips, and the baselines."""
    return _best("tiny-video")


def best_asr() -> str:
    """The ten best on sound, and the baselines."""
    return _best("tiny-asr")


def accuracy() -> str:
    """A closer look at a few methods on pictures, with times."""
    return _table("", *_read(RESULTS / "sweep_tiny_vlm.json"), ranked_first=True, times=True)


def listening() -> str:
    """A closer look at a few methods on sound, with times."""
    return _table("", *_read(RESULTS / "sweep_tiny_asr.json"), ranked_first=True, times=True)


def ranked(source: str) -> list[str]:
    """The methods that reach every ratio, best mean over the ratios first, each only with its best parameters."""
    data, methods = _read(result(source))
    ratios = _kept(data)
    whole = {name: rows for name, rows in methods.items() if set(rows) == set(ratios) and not _is_baseline(rows)}
    order = sorted(whole, key=lambda name: -sum(row["accuracy"] for row in whole[name].values()))
    first: dict[str, str] = {}
    for name in order:
        first.setdefault(name.partition(":")[0], name)
    return list(first.values())


def _all(source: str) -> str:
    return _table(f"{source}, ", *_read(result(source)))


def _best(source: str) -> str:
    data, methods = _read(result(source))
    baselines = [name for name, rows in methods.items() if _is_baseline(rows)]
    shown = {name: methods[name] for name in [*ranked(source)[:BEST], *baselines]}
    return _table(f"{source}, ", data, shown, ranked_first=True)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Rows]]:
    """A sweep.json, and its rows by method."""
    data = json.loads(path.read_text())
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


def _table(
    of: str, data: dict[str, Any], methods: dict[str, Rows], *, ranked_first: bool = False, times: bool = False
) -> str:
    """A row for each method, best mean over the ratios it reaches first; merging ones as without / with log(size).

    Args:
        of: text before "kept of" in the head.
        data: of the sweep.
        methods: those to show.
        ranked_first: baselines are last, and the best at each ratio is in bold.
        times: a second line in each cell: the share of uncompressed, and the gains in time.
    """
    kept = _kept(data)
    head = [f"{keep} ({float(ratio):.0%} removed)" for ratio, keep in kept.items()]
    lines = [f"| {of}kept of {data['tokens']} | " + " | ".join(head) + " |", "|---" * (len(kept) + 1) + "|"]
    best = {ratio: max(rows[ratio]["accuracy"] for rows in methods.values() if ratio in rows) for ratio in kept}

    def place(name: str) -> tuple[bool, float]:
        reached = methods[name].values()
        mean = sum(row["accuracy"] for row in reached) / len(reached)
        return ranked_first and _is_baseline(methods[name]), -mean

    for name in sorted(methods, key=place):
        cells = []
        for ratio, keep in kept.items():
            row = methods[name].get(ratio)
            bold = row is not None and ranked_first and row["accuracy"] == best[ratio]
            cells.append(_cell(row, keep, bold) + (_saved(row) if times else "") if row else "")
        method, _, params = name.partition(":")
        lines.append(f"| `{method}`{' ' + params if params else ''} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(row: dict[str, Any], kept: int, bold: bool) -> str:
    text = share(row["accuracy"])
    if bold:
        text = f"**{text}**"
    if "deviation" in row:
        text += f" ± {share(row['deviation'])}"
    if "accuracy_without_bias" in row:
        text = f"{share(row['accuracy_without_bias'])} / {text}"
    return text if row["keep"] == kept else f"{row['keep']} tokens: {text}"


def _saved(row: dict[str, Any]) -> str:
    saved = [f"{row['share']:.1%}"]
    if "encoder_gain" in row:
        saved += [f"{row['encoder_gain']:.2f}x", f"{row['prefill_gain']:.2f}x", f"{row['compressor_ms']:.2f} ms"]
    return f"<br><sub>{' · '.join(saved)}</sub>"


def share(value: float) -> str:
    """Three places, without the zero before the point."""
    return f"{value:.3f}".replace("0.", ".", 1)
