"""Where compressors sit, and what a LLaVA of real size gains: time to the first token and later ones, and KV bytes.

    python benchmarks/first_token.py [--rounds N] [--folder FOLDER] [--only NAME]

CLIP-L/336 and a language model of 0.5B with random weights, as `real_size_models.py` writes it: only costs are
measured. Each bundle is exported without its proof (its kind is proved in tests); then each answers in turns with
the uncompressed one, on one thread and by their own time.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from child import child
from real_size_models import MODELS
from real_size_vlm import PROMPT, TOKENS, Bundle
from report import known, save
from tokexport.exporter.timing import interleaved

NAME, MODEL = "first_token", "llava-clip-l-qwen2-0.5b"
_STEP = '[[steps]]\nmethod = "{}"\nseam = "{}"\nratio = "{}"\n\n'
HALVED = _STEP.format("kcenter_merge", "encoder_layer:1/4", "1/2")
# 86 of the 288 that are left.
REST = _STEP.format("kcenter_merge", "projector_input", "202/288")
WHOLE = "all tokens"
# In words -> options of `tokexport model`, or the text of a recipe.
BUNDLES: dict[str, list[str] | str] = {
    WHOLE: ["--method", "uniform", "--keep", "576"],
    "85% gone before prefill": ["--method", "kcenter_merge", "--ratio", "0.85"],
    "85% gone before prefill, which reads by position": [
        "--method",
        "kcenter_merge",
        "--ratio",
        "0.85",
        "--size-bias",
        "positions",
    ],
    "encoder halved": HALVED,
    "encoder halved, 85% gone before prefill": HALVED + REST,
    "fastv: half gone behind two layers": ["--recipe", "fastv"],
}


def exported(folder: Path, scratch: Path, names: list[str]) -> dict[str, Path]:
    """The bundles of these names, and the uncompressed one, in `scratch`."""
    found = {}
    for number, (name, asked) in enumerate(BUNDLES.items()):
        if name not in (WHOLE, *names):
            continue
        out = scratch / str(number)
        if isinstance(asked, str):
            (recipe := scratch / f"steps-{number}.toml").write_text(asked)
            asked = ["--recipe", str(recipe)]
        program = str(Path(sys.executable).with_name("tokexport"))
        common = ["--prompt-length", str(PROMPT), "--no-verify", "-o", str(out)]
        took = child([program, "model", str(folder), *asked, *common], scratch / "log")
        print(f"{name}: exported in {took['seconds']} s", flush=True)
        found[name] = out
    return found


def cache_bytes(bundle: Path) -> int:
    """What the caches of a bundle take, as its decode graph declares them."""
    inputs = json.loads((bundle / "manifest.json").read_text())["variants"][0]["graphs"]["decode"]["inputs"]
    shapes = [one["shape"] for role, one in inputs.items() if role.startswith("past_")]
    return 4 * sum(int(np.prod(shape)) for shape in shapes)


def measured(bundles: dict[str, Path], rounds: int) -> dict[str, dict[str, float]]:
    """Each bundle beside the uncompressed one, in turns; two at a time, because all of them fill the memory."""
    torch.set_num_threads(1)
    whole, *others = bundles
    table: dict[str, dict[str, float]] = {}
    for name in others:
        both = _pair({one: bundles[one] for one in (whole, name)}, rounds)
        table = {whole: both[whole], **table, name: both[name]}
        print(name, both, flush=True)
    return table


def _pair(bundles: dict[str, Path], rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds of each step, and up to each number of tokens; the first is what the other is held against."""
    side = MODELS[MODEL].side
    pixels = np.random.default_rng(0).standard_normal((1, 3, side, side), np.float32)
    found = {name: Bundle(folder, pixels) for name, folder in bundles.items()}
    clock = time.process_time
    encoder = interleaved({name: one.encode for name, one in found.items()}, rounds, warmup=1, clock=clock)
    prefill = interleaved({name: one.prefill for name, one in found.items()}, rounds, warmup=1, clock=clock)
    token = interleaved({name: one.token for name, one in found.items()}, 40, clock=clock)
    whole, table = next(iter(found)), {}
    for name, folder in bundles.items():
        to, plain = (
            {length: encoder[one] + prefill[one] + (length - 1) * token[one] for length in TOKENS}
            for one in (name, whole)
        )
        table[name] = {
            "encoder_ms": round(encoder[name]),
            "prefill_ms": round(prefill[name]),
            "token_ms": round(token[name], 1),
            "cache_mb": round(cache_bytes(folder) / 1e6, 1),
            **{f"to_{length}_ms": round(to[length]) for length in TOKENS},
            **{f"to_{length}_times_faster": round(plain[length] / to[length], 2) for length in TOKENS},
        }
    return table


def main() -> None:
    """Measure, print, and keep results/first_token.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="of the encoder and of prefill")
    parser.add_argument("--folder", type=Path, help="where the model lies, or is kept when it was made")
    parser.add_argument("--only", nargs="*", choices=[*BUNDLES], default=[*BUNDLES], help="the others stay as they are")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        folder: Any = asked.folder or scratch / MODEL
        if not folder.is_dir():
            maker = Path(__file__).with_name("real_size_models.py")
            child([sys.executable, str(maker), MODEL, str(folder)], scratch / "log")
        table = measured(exported(folder, scratch, asked.only), asked.rounds)
        before = known(NAME)
        # Ratios are of pairs; of the uncompressed bundle the times of the first run stay.
        table = {name: table.get(name, before.get(name)) for name in BUNDLES}
        if WHOLE in before and len(asked.only) < len(BUNDLES):
            table[WHOLE] = before[WHOLE]
        print(json.dumps(table, indent=1))
        save(NAME, {name: row for name, row in table.items() if row}, f"python benchmarks/{NAME}.py")


if __name__ == "__main__":
    main()
