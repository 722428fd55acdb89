"""What merging costs a hybrid, where log(size) reaches its attention alone, and what repeated updates repair.

    python benchmarks/hybrid_sizes.py build/hybrid.safetensors       ten minutes of one core, with its training

Right answers of the hybrid of `hybrid_model`, in full, to questions that no step of training has seen; the file is made
where it is not there. A merged token of n counts as one everywhere (`none`), as n in attention alone, by its bias
log(n) (`attention`), or also in the linear layers, by the update that is n updates (`both`), or there alone
(`linear`). In `exported` a graph in ONNX Runtime reads the picture, with both, as exported graphs do. tiny-vlm, all of
whose layers attend, answers the same questions beside it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hybrid_model
import numpy as np
import torch
from hybrid_model import Hybrid, spread, trained
from report import write
from tokexport.exporter.sources.source import GraphSource
from tokexport.exporter.sources.torch_export import export_graph
from tokexport.exporter.zoo.tiny_vlm.evaluate import Compress, QuestionSet, by_method, question_set
from tokexport.exporter.zoo.tiny_vlm.model import TinyVLM, load
from tokexport.exporter.zoo.tiny_vlm.scenes import pixel_values
from tokexport.exporter.zoo.tiny_vlm.text import BOS, WORDS
from tokexport.runtimes.ort.graph import ort_runner
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "tools/training"))
from lessons_tiny_vlm import IGNORED, SLOT, pack
from train_tiny_vlm import packed_layout

QUESTIONS, SEED, SEEDS = 1024, 5, 3
KEPT = (36,)
MERGING = ("kcenter_merge", "tome:metric=tokens", "pool")
WAYS = ("none", "attention", "linear", "both", "exported")
SCENES = 64

# ids [q, SLOT] of questions, the scene of each [q], then of s scenes tokens [s, K, D], kept_indices and sizes [s, K]:
# logits [q, SLOT, V] behind each id.
Logits = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def of_hybrid(hybrid: Hybrid, way: str) -> Logits:
    """With sizes counted in this way."""

    def logits(ids: Tensor, rows: Tensor, tokens: Tensor, kept: Tensor, sizes: Tensor) -> Tensor:
        bias = sizes.log() if way in ("attention", "both") else torch.zeros_like(sizes)
        repeats = sizes if way in ("linear", "both") else torch.ones_like(sizes)
        carried, bias = hybrid.picture(tokens, kept, bias, repeats)
        return hybrid.words(ids, spread(carried, rows), bias[rows])

    return logits


class Picture(nn.Module):
    """tokens [s, K, D], kept_indices [s, K] int64, token_bias [s, K] -> what two parts of every layer carry."""

    def __init__(self, hybrid: Hybrid) -> None:
        super().__init__()
        self.hybrid = hybrid

    def forward(self, tokens: Tensor, kept_indices: Tensor, token_bias: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        carried, _ = self.hybrid.picture(tokens, kept_indices, token_bias, token_bias.exp())
        return tuple(part for layer in carried for part in layer)


def of_exported(hybrid: Hybrid) -> Logits:
    """The picture is read by an exported graph, for `SCENES` scenes of the count that is asked first."""
    graphs: dict[int, Any] = {}

    def logits(ids: Tensor, rows: Tensor, tokens: Tensor, kept: Tensor, sizes: Tensor) -> Tensor:
        given = {"tokens": tokens, "kept_indices": kept, "token_bias": sizes.log()}
        if tokens.shape[1] not in graphs:
            layers = range(len(hybrid.model.decoder.layers))
            outputs = tuple(f"state_{part}_{layer}" for layer in layers for part in "ab")
            made = GraphSource(role="prefill", module=Picture(hybrid), inputs=given, outputs=outputs)
            graphs[tokens.shape[1]] = ort_runner(export_graph(made))
        made = graphs[tokens.shape[1]]({name: part.numpy() for name, part in given.items()})
        parts = [torch.from_numpy(part) for part in made.values()]
        bias = F.pad(given["token_bias"], (hybrid.model.config.offset, 0))
        return hybrid.words(ids, spread(list(zip(parts[::2], parts[1::2])), rows), bias[rows])

    return logits


def of_attention(model: TinyVLM, way: str) -> Logits:
    """Likewise of tiny-vlm itself."""

    def logits(ids: Tensor, rows: Tensor, tokens: Tensor, kept: Tensor, sizes: Tensor) -> Tensor:
        config = model.config
        bos = torch.full((len(ids), config.offset), BOS)
        embeds = model.splice(torch.cat([bos, ids], 1), tokens[rows])
        text = config.offset + config.tokens + torch.arange(ids.shape[1]).expand(len(ids), -1)
        positions = torch.cat([torch.zeros_like(bos), config.offset + kept[rows], text], 1)
        _, mask = packed_layout(config, 1, ids.shape[1], kept[0])
        bias = sizes[rows].log() if way == "attention" else torch.zeros_like(sizes[rows])
        mask = mask + F.pad(bias, (config.offset, ids.shape[1]))[:, None, None]
        return model.decoder(embeds, positions, mask)[:, -ids.shape[1] :]

    return logits


@torch.inference_mode()
def share(asked: QuestionSet, features: Tensor, model: TinyVLM, read: Logits, by: Compress | None) -> float:
    """Of answers that are right in full: each word is the likeliest where those before are given, and so it is said."""
    ids, targets = (torch.from_numpy(part) for part in pack(asked.asked, WORDS, SLOT))
    right = []
    for start in range(0, len(features), SCENES):
        seen = features[start : start + SCENES]
        kept = torch.arange(seen.shape[1]).expand(len(seen), -1)
        sizes = torch.ones(kept.shape)
        if by is not None:
            seen, kept, sizes = by(seen)
        of = np.flatnonzero((asked.scene >= start) & (asked.scene < start + SCENES))
        rows = torch.from_numpy(asked.scene[of] - start)
        best = read(ids[of], rows, model.projector(seen), kept, sizes.float()).argmax(-1)
        right.append(((best == targets[of]) | (targets[of] == IGNORED)).all(1))
    return float(torch.cat(right).float().mean())


def main(path: Path) -> None:
    """Train where it is not done, measure, write."""
    torch.set_num_threads(1)
    if not path.exists():
        hybrid_model.train(path)
    hybrid, plain = trained(path), load()
    exported = of_exported(hybrid)
    asked = question_set(QUESTIONS, SEED)
    with torch.inference_mode():
        pixels = [torch.from_numpy(pixel_values(part)) for part in np.array_split(asked.pixels, 16)]
        features = torch.cat([plain.vision(part)[:, 1:] for part in pixels])

    def of(by: Compress | None, ways: tuple[str, ...]) -> dict[str, float]:
        read = {way: exported if way == "exported" else of_hybrid(hybrid, way) for way in ways}
        found = {f"hybrid, {way}": share(asked, features, hybrid.model, read[way], by) for way in ways}
        for way in [way for way in ways if way in ("none", "attention")]:
            found[f"tiny-vlm, {way}"] = share(asked, features, plain, of_attention(plain, way), by)
        return {name: round(right, 4) for name, right in found.items()}

    rows: dict[str, dict[str, float]] = {"every token": of(None, ("none",))}
    print(rows, flush=True)
    for keep in KEPT:
        rows[f"uniform {keep}"] = of(by_method("uniform", keep), ("none",))
        chances = [of(by_method("random", keep, seed=seed), ("none",)) for seed in range(SEEDS)]
        rows[f"random {keep}, {SEEDS} seeds"] = {
            name: round(float(np.mean([one[name] for one in chances])), 4) for name in chances[0]
        }
        for name in MERGING:
            method, _, said = name.partition(":")
            params = dict([said.split("=")]) if said else {}
            rows[f"{name} {keep}"] = of(by_method(method, keep, **params), WAYS)
            print(f"{name} {keep}", rows[f"{name} {keep}"], flush=True)
    write("hybrid_sizes", {"questions": QUESTIONS, "answers right": rows}, "python benchmarks/hybrid_sizes.py FILE")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    main(parser.parse_args().weights)
