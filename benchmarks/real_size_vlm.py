"""Whole vision-language models in real sizes: what the whole command costs, and what its graphs save.

    python benchmarks/real_size_vlm.py smolvlm-500m [--rounds N] [--folder FOLDER]

Weights are random: only costs are measured. Three child processes give seconds and peak memory: `tokexport model` with
its proof; the same without a proof, and with all tokens kept; and torch.onnx.export of the same modules. Then the two
bundles and transformers answer in turns, on one thread and by their own time, which others on the machine disturb
little. A token of one bundle may take a few percent longer than of the other: they take turns at each token. The row of
another model in the file stays as it is. Two bundles of 2B in float32 beside transformers need more than 24 GB:
`--rounds 0` leaves the answers out.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from child import child
from real_size_models import MODELS, QUESTION
from report import RESULTS, save
from tokexport.exporter.timing import interleaved

NAME = "real_size_vlm"
METHOD, RATIO, PROMPT = "kcenter_merge", "0.85", 32
TOKENS = (1, 20, 100)  # of an answer
ALL, FEWER, TRANSFORMERS = "all tokens", "85% removed", "transformers"
# What a figure is measured against.
PEAK_OF_WEIGHTS, PEAK_MORE_GB = 1.3, 1.0
EXPORT_OF_PLAIN = 1.3
GAIN_OF_PROMISED = 0.9


class Bundle:
    """A bundle in ONNX Runtime, on one thread."""

    def __init__(self, folder: Path, pixels: np.ndarray) -> None:
        from tokexport import load

        self.session, self.pixels = load(folder, threads=1), pixels
        self.prompt, self.record = self.session.ids(QUESTION), self.session.variant.generation
        self.encoded: Any = None

    def encode(self) -> None:
        """The encoder's graph, and its compressor."""
        self.encoded = self.session.encode(self.pixels)

    def prefill(self) -> None:
        """Embed and prefill."""
        from tokexport.runtimes.generate import begin

        self.run, self.said = self.session.steps(), 0
        self.begun = begin(self.run, self.session.variant, self.encoded, [self.prompt])

    def token(self) -> None:
        """Decode; which token it is costs nothing."""
        self.begun.follow(self.run, np.array([7]), self.said)
        self.said += 1


class Transformers:
    """The folder in eager PyTorch, with its default attention.

    Args:
        folder: the checkpoint.
        like: a bundle with all tokens, for its prompt and its pixels.
    """

    def __init__(self, folder: Path, like: Bundle) -> None:
        import torch
        from transformers import AutoModelForImageTextToText

        self.model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
        before, count = like.record.image_span
        ids = [*like.prompt[:before], *[self.model.config.image_token_id] * count, *like.prompt[before:]]
        self.ids = torch.tensor([ids])
        self.read, self.told = self._inputs(torch.from_numpy(like.pixels))
        self.encoded: Any = None

    def _inputs(self, pixels: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """What its encoder reads, and what its `generate` is told about that."""
        import torch

        config = self.model.config
        if config.model_type == "smolvlm":
            return {"pixel_values": pixels[None]}, {}
        if config.model_type != "qwen2_vl":
            return {"pixel_values": pixels}, {}
        vision, side = config.vision_config, pixels.shape[-1] // config.vision_config.patch_size
        # A picture counts as two frames.
        patches = torch.randn(side**2, vision.in_channels * vision.temporal_patch_size * vision.patch_size**2)
        grid = {"image_grid_thw": torch.tensor([[1, side, side]])}
        kinds = {"mm_token_type_ids": (self.ids == config.image_token_id).int()}
        return {"pixel_values": patches, **grid}, {**grid, **kinds}

    def encode(self) -> None:
        """Its encoder."""
        import torch

        with torch.inference_mode():
            self.encoded = self.model.model.get_image_features(**self.read, return_dict=True)

    def decode(self, length: int) -> None:
        """Its `generate`, greedily, from the encoder's output."""
        import torch

        given = {"input_ids": self.ids, "attention_mask": torch.ones_like(self.ids), **self.told}
        given["mm_encoder_outputs"] = {"image": self.encoded}
        with torch.inference_mode():
            made = self.model.generate(**given, do_sample=False, min_new_tokens=length, max_new_tokens=length)
        assert made.shape[1] == self.ids.shape[1] + length


def commands(folder: Path, scratch: Path) -> dict[str, dict[str, float]]:
    """What each command costs. The bundles stay in `scratch`, named `FEWER` and `ALL`."""
    tokexport = [str(Path(sys.executable).with_name("tokexport")), "model", str(folder)]
    lengths = ["--prompt-length", str(PROMPT)]
    log = scratch / "log"
    whole = [*tokexport, "--method", METHOD, "--ratio", RATIO, *lengths, "-o", str(scratch / FEWER)]
    table = {"whole": child(whole, log)}
    print(f"the whole command: {table['whole']}", flush=True)
    count = json.loads((scratch / FEWER / "manifest.json").read_text())["variants"][0]["generation"]["tokens_in"]
    kept = ["--method", "uniform", "--keep", str(count), "--no-verify"]
    table["without_proof"] = child([*tokexport, *kept, *lengths, "-o", str(scratch / ALL)], log)
    print(f"without its proof: {table['without_proof']}", flush=True)
    plain = scratch / "plain"
    script = Path(__file__).with_name("plain_export.py")
    table["plain"] = child([sys.executable, str(script), str(folder), str(plain), *lengths], log)
    print(f"torch.onnx.export alone: {table['plain']}", flush=True)
    for file in plain.iterdir():
        file.unlink()
    return table


def programs(folder: Path, scratch: Path, side: int, rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds of each program's own time for each step, and up to each number of tokens."""
    import torch

    torch.set_num_threads(1)
    pixels = np.random.default_rng(0).standard_normal((1, 3, side, side), np.float32)
    found: dict[str, Any] = {name: Bundle(scratch / name, pixels) for name in (ALL, FEWER)}
    theirs = found[TRANSFORMERS] = Transformers(folder, found[ALL])
    clock = time.process_time
    encoder = interleaved({name: one.encode for name, one in found.items()}, rounds, warmup=1, clock=clock)
    first, *further = TOKENS
    bundles = {name: found[name] for name in (ALL, FEWER)}
    once = {name: one.prefill for name, one in bundles.items()} | {TRANSFORMERS: partial(theirs.decode, first)}
    prefill = interleaved(once, rounds, warmup=1, clock=clock)
    token = interleaved({name: one.token for name, one in bundles.items()}, further[-1] - first, clock=clock)
    table = {}
    for name, one in found.items():
        to = dict.fromkeys(TOKENS, encoder[name] + prefill[name])
        for length in further:
            if name == TRANSFORMERS:
                said = interleaved({name: partial(theirs.decode, length)}, 1, warmup=0, clock=clock)[name]
                to[length] = encoder[name] + said
            else:
                to[length] += (length - first) * token[name]
        table[name] = {
            "positions": PROMPT + one.record.image_span[1] if name != TRANSFORMERS else theirs.ids.shape[1],
            "encoder_ms": round(encoder[name], 1),
            "prefill_ms": round(prefill[name], 1),
            "token_ms": round((to[further[-1]] - to[first]) / (further[-1] - first), 1),
            **{f"to_{length}_ms": round(to[length], 1) for length in TOKENS},
        }
    return table


def judged(row: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Each goal: what was measured, its limit, and whether it is met."""
    command = row["commands"]
    limit = PEAK_OF_WEIGHTS * row["weights_gb"] + PEAK_MORE_GB
    ratio = command["without_proof"]["cpu_seconds"] / command["plain"]["cpu_seconds"]
    goals = {
        "peak_gb": (command["whole"]["peak_gb"], limit, command["whole"]["peak_gb"] <= limit),
        "export_of_plain": (ratio, EXPORT_OF_PLAIN, ratio <= EXPORT_OF_PLAIN),
    }
    if timed := row.get("programs"):
        promised = timed[ALL]["positions"] / timed[FEWER]["positions"]
        gain = timed[ALL]["prefill_ms"] / timed[FEWER]["prefill_ms"]
        goals["prefill_gain"] = (gain, GAIN_OF_PROMISED * promised, gain >= GAIN_OF_PROMISED * promised)
    return {
        name: {"measured": round(measured, 2), "limit": round(limit, 2), "met": bool(met)}
        for name, (measured, limit, met) in goals.items()
    }


def keep(name: str, row: dict[str, Any]) -> None:
    """Write the row of a model into the file, in the order of `MODELS`."""
    file = RESULTS / f"{NAME}.json"
    rows = json.loads(file.read_text())["results"] if file.is_file() else {}
    rows[name] = row | {"goals": judged(row)}
    save(NAME, {each: rows[each] for each in MODELS if each in rows}, f"python benchmarks/{NAME}.py MODEL")
    for goal, told in rows[name]["goals"].items():
        print(f"{name}, {goal}: {told['measured']}, limit {told['limit']}: {'met' if told['met'] else 'MISSED'}")


def main() -> None:
    """Measure a model, print, and keep its row of results/real_size_vlm.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--rounds", type=int, default=3, help="of the encoder and of prefill; 0: the commands alone")
    parser.add_argument("--folder", type=Path, help="where the model lies, or is kept when it was made")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        folder = asked.folder or scratch / asked.model
        if not folder.is_dir():
            maker = Path(__file__).with_name("real_size_models.py")
            child([sys.executable, str(maker), asked.model, str(folder)], scratch / "log")
        row: dict[str, Any] = {
            "date": datetime.datetime.now().isoformat(timespec="minutes"),
            "load": round(os.getloadavg()[0], 1),
            "threads": int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1),
            "weights_gb": round(sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 1e9, 2),
            "commands": commands(folder, scratch),
            "proof_npz_mb": round((scratch / FEWER / "proof.npz").stat().st_size / 1e6, 1),
        }
        keep(asked.model, row)
        if not asked.rounds:
            return
        row["load_of_programs"] = round(os.getloadavg()[0], 1)
        row["programs"] = programs(folder, scratch, MODELS[asked.model].side, asked.rounds)
        print(json.dumps(row["programs"], indent=1))
        keep(asked.model, row)


if __name__ == "__main__":
    main()
