"""Share of words that change, and word error rate, of compressed speech recognition on trained weights.

    python quality.py [tiny.en|base] [--only METHOD ...] [--quick]        quick: half removed after the first layer

The first layer is encoder_layer:0. A shorter window is measured on the clips that fit in with the silence at their end.
Each cell is kept in results/real_MODEL.json as soon as it is done; what is there is not measured again.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import checkpoint
import packages
from recogniser import Recogniser, body
from speech import RATE, clips
from tokexport.graph_passes.compressors import make
from tokexport.runtimes.windows import SILENCE_SECONDS
from words import differing, words

RESULTS = Path(__file__).parents[1] / "results"
# Left out of the methods for sound: those that read a prompt's embeddings (adafv, cdpruner, sparsevlm, speechprune,
# trim), since a transcript has none; those that need weights or a projector trained for them (qformer, stack,
# tokenlearner, window_qformer); pool1d, conv1d and cls_topk, which are pool and audio_topk here; scope, whose 750 picks
# read all N^2 cosines each: minutes a cell.
METHODS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("kcenter_merge", {}),
    ("a_tome", {"metric": "tokens"}),
    ("tome", {"metric": "tokens"}),
    ("two_scale", {}),
    ("uniform", {}),
    ("pool", {"grid": "1500"}),
    ("folder", {}),
    ("folder", {"scale_by_size": False}),
    ("dpc_knn", {}),
    ("audio_topk", {}),
    ("a_tome", {"metric": "keys"}),
    ("tome", {"metric": "keys"}),
    ("evit", {"attention": "received", "rest": "mean"}),
    ("divprune", {}),
    ("dart", {}),
    ("topk", {"score": "distance_to_mean"}),
    ("topk", {"score": "norm"}),
)
RATIOS = (0.5, 0.75, 0.85, 0.9)
SEEDS = 10
WINDOWS = (10, 15)  # seconds


@dataclass(frozen=True)
class Cell:
    """One measurement.

    Attributes:
        method: its name.
        params: its parameters.
        ratio: share of tokens removed.
        layer: encoder layers before it; None: behind the encoder.
        bias: whether log(size) is added.
    """

    method: str
    params: dict[str, Any]
    ratio: float
    layer: int | None
    bias: bool

    @property
    def name(self) -> str:
        """Of the row: the method and its parameters."""
        return _named(self.method, self.params)

    @property
    def key(self) -> str:
        """In the file of results."""
        place = "behind" if self.layer is None else f"encoder_layer:{self.layer - 1}"
        return f"{self.name}, {place}, {self.ratio}" + (", log(size)" if self.bias else "")

    @property
    def quick(self) -> bool:
        """Half removed after the first layer, as each method is meant to be used."""
        return self.layer == 1 and self.ratio == RATIOS[0] and self.importance == 0

    @property
    def importance(self) -> int:
        """What has 0 is measured first: methods as they are meant to be used, where they can hold."""
        many, seed = self.ratio > RATIOS[1], self.params.get("seed", 0)
        # A random choice of so few is lost with any seed.
        if many and (self.layer is not None or seed > 0):
            return 2
        return int(self.bias != make(self.method).method.merges or seed > 2)


def _named(method: str, params: dict[str, Any]) -> str:
    return " ".join([method, *(f"{key}={value}" for key, value in params.items())])


def cells(only: list[str]) -> list[Cell]:
    """All, or those of some rows, the most important first."""
    rows = (*METHODS, *(("random", {"seed": seed}) for seed in range(SEEDS)))
    found = [
        Cell(method, params, ratio, layer, bias)
        for method, params in rows
        if not only or method in only or _named(method, params) in only
        for ratio in RATIOS
        # Of 1,500 tokens whole strides leave 750, 375, 214 and 150.
        if method != "pool" or ratio != 0.85
        for layer in (None, 1)
        for bias in ((True, False) if make(method).method.merges else (False,))
    ]
    return sorted(found, key=lambda cell: cell.importance)


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
    for seconds in WINDOWS:
        fitting = [i for i, one in enumerate(spoken) if len(one.sound) <= (seconds - SILENCE_SECONDS) * RATE]
        if f"window {seconds}" not in done:
            ours = [words(text) for text in recogniser.in_window(seconds, fitting)]
            done[f"window {seconds}"] = _scored(ours, [plain[i] for i in fitting], [spoken[i] for i in fitting])
            file.write_text(json.dumps(done, indent=1) + "\n")
        print(f"window {seconds}: {json.dumps(done[f'window {seconds}'])}")
    for cell in cells(asked.only):
        if asked.quick and not cell.quick:
            continue
        if cell.key not in done:
            n, dim = recogniser.upto(1).shape[1:]
            compress = body(cell.method, n, dim, cell.ratio, tuple(cell.params.items()))
            ours = [words(text) for text in recogniser.transcripts(compress, cell.layer, bias=cell.bias)]
            done[cell.key] = _scored(ours, plain, spoken)
            file.write_text(json.dumps(done, indent=1) + "\n")
        print(f"{cell.key}: {json.dumps(done[cell.key])}", flush=True)


def _scored(ours: list[list[str]], plain: list[list[str]], spoken: list[Any]) -> dict[str, float | int]:
    """Words that differ from the uncompressed transcript, of short clips and full windows, and the word error rate."""
    found: dict[str, float | int] = {}
    for name, full in (("short", False), ("full", True)):
        pairs = [(a, b) for a, b, clip in zip(ours, plain, spoken) if clip.full == full]
        if not pairs:
            continue
        count = sum(len(b) for _, b in pairs)
        found |= {f"words_{name}": count, f"changed_{name}": round(sum(differing(a, b) for a, b in pairs) / count, 4)}
    known = [(a, words(clip.text)) for a, clip in zip(ours, spoken) if clip.text]
    found["error_rate"] = round(sum(differing(a, b) for a, b in known) / sum(len(b) for _, b in known), 4)
    return found


if __name__ == "__main__":
    main()
