"""The ideas of benchmarks/ideas.py that mean something in cross-attention, on Whisper tiny.en: docs/ideas.md.

    OMP_NUM_THREADS=1 python idea_words.py          three minutes of one core

Words that differ from the uncompressed transcript, of the utterances and of the windows that are not put together of
them; behind the encoder. A slot's weight goes into attention as the logarithm of its size. There are no positions in
cross-attention: a median, a distance, and unmerging change nothing, nor does log(N / K), which is the same for all.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import checkpoint
import numpy as np
import packages
from recogniser import Compress, Recogniser, body
from speech import clips
from words import differing, words

sys.path.insert(0, str(Path(__file__).parents[1]))
from report import save

RATIOS = (0.75, 0.9)
CONSTANTS = (-1.0, 1.0, 2.0)
MERGING = ("kcenter_merge", "tome:metric=tokens")
SELECTING = ("uniform", "divprune")


def nearest(x: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """The slot [N] nearest to each of x [N, D] in L2."""
    slot: np.ndarray = (2 * x @ tokens.T - np.square(tokens).sum(1)).argmax(1)
    return slot


def counted(plain: Compress, *, average: bool) -> Compress:
    """What a method drops counts for the nearest slot, and is averaged into it."""

    def compress(x: np.ndarray, seen: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        tokens, _ = plain(x, seen)
        hot = np.eye(len(tokens), dtype=np.float32)[nearest(x, tokens)]
        sizes = hot.sum(0).clip(1)
        return (hot.T @ x / sizes[:, None] if average else tokens), sizes

    return compress


def spread(plain: Compress, constant: float) -> Compress:
    """The variance of a slot's members, as a share of that of all tokens, times a constant, joins log(size)."""

    def compress(x: np.ndarray, seen: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        tokens, sizes = plain(x, seen)
        slot = nearest(x, tokens)
        count = np.bincount(slot, minlength=len(tokens)).clip(1)
        within = np.bincount(slot, np.square(x - tokens[slot]).sum(1), len(tokens)) / count
        share = within / np.square(x - x.mean(0)).sum(1).mean()
        return tokens, (sizes * np.exp(constant * share)).astype(np.float32)

    return compress


def cells(n: int, dim: int) -> Iterator[tuple[str, float, str, Compress, bool]]:
    """Method, ratio, idea, what does it, and whether sizes are read."""
    for ratio in RATIOS:
        for name in (*MERGING, *SELECTING):
            method, _, rest = name.partition(":")
            plain = body(method, n, dim, ratio, tuple(tuple(one.split("=")) for one in rest.split(",") if one))
            if name in MERGING:
                yield name, ratio, "log(size)", plain, True
                for constant in CONSTANTS:
                    yield name, ratio, f"spread, constant {constant:g}", spread(plain, constant), True
            else:
                yield name, ratio, "no bias", plain, False
                yield name, ratio, "log(members)", counted(plain, average=False), True
                yield name, ratio, "log(members), averaged", counted(plain, average=True), True


def main() -> None:
    """Print a line for each cell, and keep them."""
    spoken = [clip for clip in clips() if not (clip.full and clip.text)]
    folder = checkpoint.write("tiny.en", packages.FOLDER / "whisper-tiny.en")
    recogniser = Recogniser(folder, [clip.sound for clip in spoken])
    plain = [words(text) for text in recogniser.transcripts(None, None, bias=False)]
    count = sum(map(len, plain))
    found: list[dict[str, Any]] = []
    for method, ratio, idea, compress, bias in cells(*recogniser.upto(1).shape[1:]):
        said = [words(text) for text in recogniser.transcripts(compress, None, bias=bias)]
        # A model that repeats itself has not changed more than all.
        changed = [min(differing(ours, right), len(right)) for ours, right in zip(said, plain, strict=True)]
        found.append({"method": method, "ratio": ratio, "idea": idea, "changed": changed})
        print(json.dumps(found[-1]), sum(changed), flush=True)
        save("ideas_tiny.en", {"words": count, "rows": found}, "python benchmarks/real/idea_words.py")


if __name__ == "__main__":
    main()
