"""Share of words that change, and word error rate, of compressed speech recognition on trained weights.

    python quality.py [tiny.en|base] [--only METHOD ...] [--quick]        quick: half removed after the first layer

Each cell is kept in results/real_MODEL.json as soon as it is done; what is there is not measured again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import checkpoint
import packages
from recogniser import Recogniser, body
from speech import clips
from words import differing, words

RESULTS = Path(__file__).parents[1] / "results"
# Not those that read attention (audio_topk): here tokens are compressed between two calls of the model.
METHODS: dict[str, dict[str, Any]] = {
    "kcenter_merge": {},
    "two_scale": {},
    "tome": {"metric": "tokens"},
    "a_tome": {"metric": "tokens"},
    "folder": {},
    "dpc_knn": {},
    "pool": {"grid": "1500"},
    "uniform": {},
}
RATIOS = (0.5, 0.75, 0.85, 0.9)
SEEDS = 10
Cell = tuple[str, dict[str, Any], float, "int | None", bool]


def cells(only: list[str], *, quick: bool) -> Iterator[tuple[str, Cell]]:
    """Key -> method, parameters, ratio, layers before it (None: behind the encoder), and whether log(size) is added."""
    kinds = [(method, method, params) for method, params in METHODS.items()]
    kinds += [(f"random {seed}", "random", {"seed": seed}) for seed in range(SEEDS)]
    for name, method, params in kinds:
        if only and method not in only:
            continue
        merges = method not in ("uniform", "random")
        for layer in (1,) if quick else (1, None):
            # Of 1,500 tokens a pool keeps only what whole strides leave.
            ratios = RATIOS[:1] if quick else RATIOS[:2] if method == "pool" else RATIOS
            for ratio in ratios:
                for bias in (True, False) if merges and not quick else (merges,):
                    place = "behind" if layer is None else f"encoder_layer:{layer - 1}"
                    key = f"{name}, {place}, {ratio}" + (", log(size)" if bias else "")
                    yield key, (method, params, ratio, layer, bias)


def main() -> None:
    """Measure what is missing, and print a line for each cell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="tiny.en", choices=checkpoint.MODELS)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    file = RESULTS / f"real_{asked.model}.json"
    done = json.loads(file.read_text()) if file.is_file() else {}
    spoken = clips()
    recogniser = Recogniser(
        checkpoint.write(asked.model, packages.FOLDER / f"whisper-{asked.model}"), [one.sound for one in spoken]
    )
    # What was said belongs to others: it stays in the cache, beside the sounds.
    said = packages.FOLDER / f"said-{asked.model}.json"
    if not said.is_file():
        said.write_text(json.dumps(recogniser.transcripts(None, None, bias=False)))
    plain = [words(text) for text in json.loads(said.read_text())]
    done["uncompressed"] = _scored(plain, plain, spoken)
    print(f"uncompressed: {json.dumps(done['uncompressed'])}")
    for key, (method, params, ratio, layer, bias) in cells(asked.only, quick=asked.quick):
        if key not in done:
            n, dim = recogniser.upto(1).shape[1:]
            compress = body(method, n, dim, ratio, tuple(params.items()))
            ours = [words(text) for text in recogniser.transcripts(compress, layer, bias=bias)]
            done[key] = _scored(ours, plain, spoken)
            file.write_text(json.dumps(done, indent=1) + "\n")
        print(f"{key}: {json.dumps(done[key])}", flush=True)


def _scored(ours: list[list[str]], plain: list[list[str]], spoken: list[Any]) -> dict[str, float | int]:
    """Words that differ from the uncompressed transcript, of short clips and full windows, and the word error rate."""
    found: dict[str, float | int] = {}
    for name, full in (("short", False), ("full", True)):
        pairs = [(a, b) for a, b, clip in zip(ours, plain, spoken) if clip.full == full]
        count = sum(len(b) for _, b in pairs)
        found |= {f"words_{name}": count, f"changed_{name}": round(sum(differing(a, b) for a, b in pairs) / count, 4)}
    known = [(a, words(clip.text)) for a, clip in zip(ours, spoken) if clip.text]
    found["error_rate"] = round(sum(differing(a, b) for a, b in known) / sum(len(b) for _, b in known), 4)
    return found


if __name__ == "__main__":
    main()
