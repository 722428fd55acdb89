"""Writes the tables of the README and of docs/, from results/*.json and devices/: `python benchmarks/tables.py`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from family_tables import families
from gpu_record import cells, records
from idea_tables import idea_by_position, idea_merging, idea_ours, idea_picks, idea_same, idea_selecting, idea_words
from method_tables import (
    accuracy,
    best_asr,
    best_ocr,
    best_video,
    best_vlm,
    hybrid,
    listening,
    tiny_asr,
    tiny_ocr,
    tiny_video,
    tiny_vlm,
)
from pareto_table import pareto
from readme_tables import picture, real_models
from real_size_tables import whole_models
from report import RESULTS
from tokexport.devices import profiles
from trained_tables import whisper_all, whisper_base, whisper_base_all, whisper_times, whisper_tiny

ROOT = Path(__file__).resolve().parents[1]


def results(name: str) -> Any:
    """The JSON that a benchmark wrote."""
    return json.loads((RESULTS / f"{name}.json").read_text())["results"]


def speed() -> str:
    """Times of tiny-vlm's graphs against the uncompressed ones."""
    lines = ["| tiny-vlm, one thread | tokens | encoder | prefill | decode |", "|---|---|---|---|---|"]
    for name, row in results("tiny_vlm").items():
        if name != "uncompressed":
            times = [f"{row[f'{role}_speedup']:.2f}x" for role in ("encoder", "prefill", "decode")]
            lines.append(f"| {name} | {row['share_of_tokens']:.0%} | " + " | ".join(times) + " |")
    return "\n".join(lines)


def real_size() -> str:
    """Compressors at real size beside their tower and their PyTorch reference."""
    lines = [
        "| ONNX Runtime, two cores | tokens | the node | share of the tower | against its PyTorch reference |",
        "|---|---|---|---|---|",
    ]
    for tower, methods in results("apet").items():
        for method, row in methods.items():
            part, ratio = row["onnx_over_tower"], row["onnx_over_reference"]
            lines.append(
                f"| {method}, {tower} | {row['tokens'].replace('->', 'to')} | {row['onnx_ms']:.1f} ms | {part:.2%} | "
                f"{ratio:.2f} of its time |"
            )
    return "\n".join(lines)


def export() -> str:
    """Seconds of whole commands, and what `compress()` costs on a 7B-class graph beside peers."""
    commands, compress = results("export"), results("compress")
    full, largest = compress["full"], compress["beside_peers"][-1]
    lines = ["| what | figure | command |", "|---|---|---|"]
    for row in commands.values():
        lines.append(f"| `{row['command']}` | {row['seconds']:.2f} s | `python benchmarks/bench_export.py` |")
    own = full["tokexport"]
    lines.append(
        f"| `compress()`, {full['nodes']:,} nodes, {full['weights_bytes'] / 1e9:.1f} GB of weights | "
        f"{own['call_seconds']:.2f} s, {own['peak_rss_mb']:.0f} MB, {own['read_bytes'] / 1e6:.1f} MB read | "
        "`python benchmarks/bench_compress.py` |"
    )
    peers = "; ".join(
        f"{name} {largest[name]['call_seconds']:.1f} s, {largest[name]['peak_rss_mb'] / 1e3:.1f} GB"
        for name in ("onnxslim", "onnxsim")
        if name in largest
    )
    lines.append(
        f"| the same on {largest['nodes']:,} nodes, {largest['weights_bytes'] / 1e9:.1f} GB, beside simplifiers | "
        f"{largest['tokexport']['call_seconds']:.2f} s, {largest['tokexport']['peak_rss_mb'] / 1e3:.2f} GB; {peers} | "
        "`python benchmarks/bench_compress.py` |"
    )
    return "\n".join(lines)


def inside() -> str:
    """Encoders with half of their tokens gone behind the first quarter."""
    lines = [
        "| one thread, its own time | layer | tokens | uncompressed | method | times as fast | compressor's share |",
        "|---|---|---|---|---|---|---|",
    ]
    for tower, methods in results("inside").items():
        for method, row in methods.items():
            (before, after), layer = row["tokens"], int(row["seam"].partition(":")[2]) + 1
            name = f"{tower}, rebuilt" if row["rebuilt"] else tower
            lines.append(
                f"| {name} | {layer} | {before} to {after} | {row['uncompressed_ms'] / 1e3:.2f} s | `{method}` | "
                f"{row['times_faster']:.2f} | {row['share']:.1%} |"
            )
    return "\n".join(lines)


def first_token() -> str:
    """Where compressors sit in a LLaVA of real size, and what it gains."""
    lines = [
        "| one thread, its own time | encoder | prefill | a token | KV caches | 1 token | 20 | 100 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in results("first_token").items():
        steps = f"{row['encoder_ms'] / 1e3:.2f} s | {row['prefill_ms'] / 1e3:.2f} s | {row['token_ms']:.0f} ms"
        times = " | ".join(f"{row[f'to_{length}_times_faster']:.2f}x" for length in (1, 20, 100))
        lines.append(f"| {name} | {steps} | {row['cache_mb']:.1f} MB | {times} |")
    return "\n".join(lines)


def known_devices() -> str:
    """Devices with what `tokexport devices` says of each."""
    lines = [
        "| name | device | compute capability | memory | GB/s | precision | TensorRT |",
        "|---|---|---|---|---|---|---|",
    ]
    for found in profiles.known()[0]:
        memory = f"{found.value('memory')} GiB {found.value('memory_kind')}"
        stacks = ", ".join(f"{stack.tensorrt} ({stack.name})" for stack in found.stacks)
        lines.append(
            f"| `{found.name}` | {found.title} | {found.value('compute_capability')} | {memory} | "
            f"{found.value('memory_bandwidth')} | {found.precision} | {stacks} |"
        )
    return "\n".join(lines)


def gpus() -> str:
    """The first row of each record of `make bench-gpu`."""
    found = records(RESULTS)
    if not found:
        return "No figure has been sent yet."
    heads = ["GPU", "date", "time", "eager", "compiled", "of the floor", "of the tower", "goals met"]
    rows = [heads, ["---"] * len(heads), *map(cells, found)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def fill(text: str, *made: Callable[[], str]) -> str:
    """`text` with every table between ``<!-- name -->`` and ``<!-- end -->`` replaced that one of `made` writes."""
    for table in made:
        pattern = rf"(<!-- {table.__name__} -->\n).*?(<!-- end -->)"
        # No backslash of a table may be read as a group.
        rows = table().replace("\\", r"\\")
        text = re.sub(pattern, rf"\g<1>{rows}\n\g<2>", text, flags=re.DOTALL)
    return text


# Page -> its tables. benchmarks/bench_methods.py writes one more into docs/methods.md.
PAGES: dict[str, tuple[Callable[[], str], ...]] = {
    "README.md": (picture, real_models),
    "docs/whisper-results.md": (whisper_tiny, whisper_base, whisper_times),
    "docs/built-in-models.md": (best_vlm, best_ocr, best_video, best_asr),
    "docs/benchmarks.md": (speed, real_size, inside, first_token, pareto, whole_models, export),
    "docs/families.md": (families,),
    "docs/ideas.md": (idea_merging, idea_by_position, idea_selecting, idea_picks, idea_ours, idea_words, idea_same),
    "docs/devices.md": (known_devices,),
    "docs/gpus.md": (gpus,),
    "docs/methods.md": (
        *(whisper_all, whisper_base_all, tiny_vlm, tiny_ocr, tiny_video, tiny_asr),
        *(accuracy, listening, hybrid),
    ),
}


def write() -> None:
    """All pages."""
    for name, made in PAGES.items():
        page = ROOT / name
        page.write_text(fill(page.read_text(), *made))


if __name__ == "__main__":
    write()
