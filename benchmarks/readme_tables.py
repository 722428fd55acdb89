"""The README's figures: those of its picture, and the table of real models, from results/*.json."""

from __future__ import annotations

import json
import textwrap
from typing import Any

from report import RESULTS

_INSIDE = "--ratio 0.5 --seam encoder_layer:0 --window 20 --llm-weights int8"
# Model of results/real_times_<model>.json, row there -> the arguments that make its bundle.
_RECOGNISERS = {
    ("tiny.en", "a_tome, 50% inside, window 20 s, int8 weights"): f"--method a_tome --set metric=tokens {_INSIDE}",
    ("tiny.en", "kcenter_merge, 75% behind"): "--method kcenter_merge --ratio 0.75",
    ("base", "dpc_knn, 50% inside, window 20 s, int8 weights"): f"--method dpc_knn {_INSIDE}",
}
_PEER = "faster-whisper, int8 weights"
# Row of results/real_size_vlm.json -> what it is called.
_MODELS = {
    "llava-clip-l-qwen2-0.5b": "LLaVA of CLIP-L/336 and Qwen2-0.5B",
    "smolvlm-500m": "SmolVLM-500M",
    "internvl3-1b": "InternVL3-1B",
}
_ASKED = "--method kcenter_merge --ratio 0.85 --prompt-length 32"


def picture() -> str:
    """What the picture stands for, over many questions instead of one."""
    found = json.loads((RESULTS / "methods_tiny_vlm.json").read_text())
    at = {row["method"]: row for row in found["rows"] if row["ratio"] == "0.85"}
    merged, random, selected = (_share(at[name]) for name in ("kcenter_merge", "random", "cls_topk"))
    told = (
        "Merged tokens keep their weight, because log(size) is added to the attention logits: the mosaic in the middle "
        "still stands for the whole picture. The model is our own tiny-vlm. Of "
        f"{found['questions']} questions it answers {_share(found['uncompressed'])} right with all tokens, "
        f"{merged} with {at['kcenter_merge']['keep']} merged so, {random} with as many random ones, and {selected} "
        "with those that CLS attention picks ([all methods](docs/methods.md))."
    )
    return textwrap.fill(told, 130)


def _share(row: dict[str, Any]) -> str:
    return f"{row['accuracy']:.1%}"


def real_models() -> str:
    """Trained Whisper and the sizes of real vision-language models: what is gained, what is lost, by which command."""
    lines = ["| model | times as fast as uncompressed | what changes | `tokexport model` |", "|---|---|---|---|"]
    times = {model: json.loads((RESULTS / f"real_times_{model}.json").read_text()) for model in ("tiny.en", "base")}
    for (model, name), arguments in _RECOGNISERS.items():
        row = times[model]["rows"][name]
        lines.append(f"| Whisper {model} | {_gain(row)} | {_words(row)} | `./whisper-{model} {arguments}` |")
    for model, found in times.items():
        row = found["rows"][_PEER]
        lines.append(f"| *Whisper {model} by {_PEER}* | {_gain(row)} | {_words(row)} | |")
    sizes = json.loads((RESULTS / "real_size_vlm.json").read_text())["results"]
    for key, name in _MODELS.items():
        whole, less = (sizes[key]["programs"][program] for program in ("all tokens", "85% removed"))
        steps = [whole[f"{step}_ms"] / less[f"{step}_ms"] for step in ("prefill", "to_1", "to_20", "to_100")]
        gain = "prefill {:.2f}; answers of 1, 20, 100 tokens {:.2f}, {:.2f}, {:.2f}".format(*steps)
        lines.append(f"| {name}, random weights | {gain} | not known | `./{key} {_ASKED}` |")
    return "\n".join(lines)


def _gain(row: dict[str, Any]) -> str:
    return f"{1 / row['whole_of_uncompressed']:.2f}"


def _words(row: dict[str, Any]) -> str:
    return f"{round(row['changed'] * row['words'])} of {row['words']} words"
