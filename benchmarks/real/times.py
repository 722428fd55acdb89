"""Times of whole recognisers on a clip of ten seconds: the product's bundles beside transformers and other runtimes.

    python times.py [tiny.en] [--rounds N] [--peers FOLDER]

All read the same weights in float32, greedily, on the same clip, in turns: compare the ratios. A window of 30 s is read
by all but the bundles whose name says another. openai-whisper and faster-whisper take part where Python finds them
(`pip install --target FOLDER openai-whisper faster-whisper`, and --peers FOLDER). The words that a bundle changes are
counted over short clips and pieces of long recordings, of ten seconds at most, against the first bundle's; over windows
that speech fills see quality.py.

With --work the figures are each program's own time on one thread, which others on the machine disturb little.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import checkpoint
import numpy as np
import packages
from peers import PEERS, Listener, Transformers
from speech import RATE, Clip, clips, pieces
from tokexport import export, load
from tokexport.exporter.timing import interleaved
from tokexport.runtimes.choose import Rules
from tokexport.runtimes.generate import greedy
from tokexport.runtimes.speech import Asked, prompt
from tokexport.runtimes.windows import SILENCE_SECONDS
from words import differing, words

RESULTS = Path(__file__).parents[1] / "results"
CLIP = "beckett"
LIMIT = 200  # tokens
PAUSE = 0.1  # seconds
UNCOMPRESSED = "uncompressed"
_INSIDE = {"method": "a_tome", "ratio": 0.5, "seam": "encoder_layer:0", "params": {"metric": "tokens"}}
# Name -> what `export` is told, and the seconds of its window.
BUNDLES: dict[str, tuple[dict[str, Any], int]] = {
    UNCOMPRESSED: ({"method": "uniform", "keep": 1500}, 30),
    "kcenter_merge, 75% behind": ({"method": "kcenter_merge", "ratio": 0.75}, 30),
    "kcenter_merge, 50% inside": ({"method": "kcenter_merge", "ratio": 0.5, "seam": "encoder_layer:0"}, 30),
    "a_tome, 50% inside": (_INSIDE, 30),
    "uncompressed, window 15 s": ({"method": "uniform", "keep": 750, "window": 15}, 15),
    "a_tome, 50% inside, window 15 s": ({**_INSIDE, "window": 15}, 15),
    "uncompressed, int8 weights": ({"method": "uniform", "keep": 1500, "llm_weights": "int8"}, 30),
    "uncompressed, int4 weights": ({"method": "uniform", "keep": 1500, "llm_weights": "int4"}, 30),
    "a_tome, 50% inside, window 15 s, int8 weights": ({**_INSIDE, "window": 15, "llm_weights": "int8"}, 15),
    "uncompressed, window 20 s": ({"method": "uniform", "keep": 1000, "window": 20}, 20),
    "a_tome, 50% inside, window 20 s, int8 weights": ({**_INSIDE, "window": 20, "llm_weights": "int8"}, 20),
    "a_tome, 50% behind the second layer, window 20 s, int8 weights": (
        {**_INSIDE, "seam": "encoder_layer:1", "window": 20, "llm_weights": "int8"},
        20,
    ),
    "dpc_knn, 50% inside, window 20 s, int8 weights": (
        {"method": "dpc_knn", "ratio": 0.5, "seam": "encoder_layer:0", "window": 20, "llm_weights": "int8"},
        20,
    ),
}


class Bundle(Listener):
    """A bundle of the product in ONNX Runtime."""

    def __init__(self, folder: Path, name: str, mel: np.ndarray, *, threads: int, reuse: bool) -> None:
        told, seconds = BUNDLES[name]
        out = packages.FOLDER / f"{folder.name}-{name.replace(' ', '-').replace(',', '').replace('%', '')}"
        if not (reuse and out.is_dir()):
            export(str(folder), out, verify=False, **told)
        self.session = load(out, threads=threads)
        self.mel = mel[None, :, : 100 * seconds]
        self.encoded: Any = None

    def encode(self) -> None:
        """The encoder's graph."""
        self.encoded = self.session.encode(self.mel)

    def decode(self, limit: int) -> int:
        """Prefill, and a step for each further token."""
        record = self.session.variant.generation
        assert record is not None and record.speech is not None
        start = prompt(record.speech, Asked("en" if record.speech.languages else None))
        said, _, _ = greedy(self.session.steps(), self.session.variant, self.encoded, start, limit, Rules.of(record))
        return len(said)

    def text(self, sound: np.ndarray) -> str:
        """As `tokexport run` reads it."""
        return self.session.generate(sound).text


def listeners(
    model: str, sound: np.ndarray, rows: list[str] | None, *, threads: int, reuse: bool
) -> dict[str, Listener]:
    """Name -> each that takes part: of `rows` and the uncompressed bundle, where any are named."""
    folder = checkpoint.write(model, packages.FOLDER / f"whisper-{model}")
    transformers = Transformers(folder, sound)
    mel = transformers.mel[0].numpy()
    found: dict[str, Listener] = {
        name: Bundle(folder, name, mel, threads=threads, reuse=reuse)
        for name in BUNDLES
        if rows is None or name in (UNCOMPRESSED, *rows)
    }
    if rows is None or "transformers" in rows:
        found["transformers"] = transformers
    for name, (package, module, peer) in PEERS.items():
        if rows is not None and name not in rows:
            continue
        if find_spec(module):
            found[name] = peer(folder, sound, threads)
        else:
            print(f"{name} is not installed, and takes no part: pip install {package}")
    return found


def measured(
    found: dict[str, Listener], sound: np.ndarray, rounds: int, clock: Callable[[], float]
) -> dict[str, dict[str, Any]]:
    """Milliseconds of each step, and what they are of the uncompressed bundle's."""
    tokens = {name: _ready(one) for name, one in found.items()}
    tasks: dict[str, Callable[[Listener], Any]] = {
        "encoder": lambda one: one.encode(),
        "prefill": lambda one: one.decode(1),
        "all": lambda one: one.decode(LIMIT),
        "whole": lambda one: one.text(sound),
    }
    steps = {
        step: interleaved(
            {name: partial(task, one) for name, one in found.items()}, rounds, warmup=1, pause=PAUSE, clock=clock
        )
        for step, task in tasks.items()
    }
    steps["token"] = {
        name: (whole - steps["prefill"][name]) / (tokens[name] - 1) for name, whole in steps.pop("all").items()
    }
    table: dict[str, dict[str, Any]] = {name: {} for name in found}
    for step, taken in steps.items():
        for name, milliseconds in taken.items():
            table[name] |= {
                f"{step}_ms": round(milliseconds, 2),
                f"{step}_of_uncompressed": round(milliseconds / taken[UNCOMPRESSED], 3),
            }
    return table


def _ready(one: Listener) -> int:
    one.encode()
    return one.decode(LIMIT)


def changed(found: dict[str, Listener], spoken: list[Clip]) -> dict[str, dict[str, float]]:
    """Share of words that differ from the uncompressed bundle's, over these clips where the window holds them."""
    plain = [words(found[UNCOMPRESSED].text(clip.sound)) for clip in spoken]
    table = {}
    for name, one in found.items():
        room = (BUNDLES[name][1] if name in BUNDLES else 30) * RATE
        room -= 0 if room == 30 * RATE else round(SILENCE_SECONDS * RATE)
        pairs = [(words(one.text(c.sound)), said) for c, said in zip(spoken, plain) if len(c.sound) <= room]
        count = sum(len(said) for _, said in pairs)
        table[name] = {"words": count, "changed": round(sum(differing(a, b) for a, b in pairs) / count, 4)}
    return table


def _used() -> float:
    """Seconds of computing that all other processes of a Linux machine have used so far."""
    line = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    user, nice, system, _, _, *interrupts = (int(field) for field in line[:8])
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK") - time.process_time()


def main() -> None:
    """Measure, print, and keep results/real_times_MODEL.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="tiny.en", choices=checkpoint.MODELS)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--peers", help="a folder that pip installed the other runtimes into")
    parser.add_argument(
        "--work", action="store_true", help="own time on one thread, instead of the clock's on all cores"
    )
    parser.add_argument(
        "--rows", nargs="*", help="these alone, beside the uncompressed bundle; the file's other rows stay as they are"
    )
    parser.add_argument("--reuse", action="store_true", help="the bundles of an earlier run, where there are any")
    asked = parser.parse_args()
    if asked.peers:
        sys.path.append(asked.peers)
    import torch

    threads = 1 if asked.work else os.cpu_count() or 1
    torch.set_num_threads(threads)
    spoken = clips()
    sound = next(clip.sound for clip in spoken if clip.name == CLIP)
    found = listeners(asked.model, sound, asked.rows, threads=threads, reuse=asked.reuse)
    before = _used(), time.perf_counter()
    table = measured(found, sound, asked.rounds, time.process_time if asked.work else time.perf_counter)
    others = (_used() - before[0]) / (time.perf_counter() - before[1])
    for name, row in changed(found, [*(clip for clip in spoken if not clip.full), *pieces(spoken, 10)]).items():
        table[name] |= row
        print(f"{name}: {json.dumps(table[name])}")
    result = {
        "seconds": round(len(sound) / RATE, 1),
        "threads": threads,
        "clock": "own time" if asked.work else "wall",
        "load": round(others, 1),
        "rows": table,
    }
    kept = RESULTS / f"real_times_{asked.model}.json"
    if asked.rows and kept.is_file():
        result = json.loads(kept.read_text())
        rows = result["rows"] | {name: row for name, row in table.items() if name != UNCOMPRESSED}
        result["rows"] = {name: rows[name] for name in (*BUNDLES, *rows) if name in rows}
    kept.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
