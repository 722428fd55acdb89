"""Merged tokens that prefill reads at the positions of all that is in them, beside log(size) alone: docs/ideas.md.

    python benchmarks/by_position.py [tiny-video tiny-vlm tiny-ocr]     some minutes of one core each
    python benchmarks/by_position.py --tables

Through the exported graphs in ONNX Runtime, on the same fresh questions for both, and as many evenly spread and random
tokens.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import numpy as np
import tables
from report import gained, known, save
from tokexport.exporter.evaluate.answers import Language
from tokexport.exporter.evaluate.bench import Bench
from tokexport.exporter.evaluate.question_set import QuestionSet
from tokexport.exporter.opening import open_source
from tokexport.exporter.sources.source import Question, Source
from tokexport.exporter.sweeps.rows import method_of
from tokexport.graph_passes.budget import tokens_kept

NAME = "by_position"
RATIOS = ("0.75", "0.85", "0.9", "0.95")
METHODS = {
    "tiny-video": ("kcenter_merge", "nearest_merge", "two_scale", "dpc_knn", "tome:metric=tokens", "prunevid"),
    "tiny-vlm": ("kcenter_merge", "nearest_merge", "tome:metric=tokens"),
    "tiny-ocr": ("kcenter_merge", "nearest_merge", "tome:metric=tokens"),
}
BASELINES = ("uniform", "random")
# Not those on which the idea was chosen; see ideas.py.
SEED, QUESTIONS = 17, 1024


def measured(model: str) -> dict[str, Any]:
    """Method -> ratio -> the score in both ways, and what the second gains with its standard error."""
    source = open_source(model, parts="all")
    by_position = source.read_by_position()
    bench, asked = Bench(source), source.questions(QUESTIONS, SEED)
    questions = QuestionSet.of_questions(source, bench.base.encoder, asked)
    tokens = math.prod(source.encoder.grid or ())
    found: dict[str, Any] = {"uncompressed": source.uncompressed_accuracy(QUESTIONS, SEED), "rows": {}}
    for ratio in RATIOS:
        keep = tokens_kept(tokens, ratio=ratio, keep=None)
        ways = {"auto": Language.export(source, keep), "positions": Language.export(by_position, keep)}
        for name in (*METHODS[model], *BASELINES):
            compressor = method_of(name)
            encoded = questions.encode(bench.base.seam(compressor), compressor, keep)
            # Baselines merge nothing.
            read = ways if compressor.method.merges else {"auto": ways["auto"]}
            right = {way: _right(source, questions.answer(encoded, one), asked) for way, one in read.items()}
            cell: dict[str, Any] = {"keep": keep, **{way: float(np.mean(one)) for way, one in right.items()}}
            if "positions" in right:
                _, cell["stderr"] = gained(right["positions"] - right["auto"], np.ones(QUESTIONS), questions.of)
            found["rows"].setdefault(name, {})[ratio] = cell
            print(f"{model} {name} {ratio} {cell}", flush=True)
    return found


def _right(source: Source, said: list[str], asked: list[Question]) -> np.ndarray:
    return np.array([source.score([one], [question.answer]) for one, question in zip(said, asked, strict=True)])


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=[*METHODS])
    parser.add_argument("--tables", action="store_true", help="measure nothing")
    asked = parser.parse_args()
    for model in [] if asked.tables else asked.models:
        save(NAME, known(NAME) | {model: measured(model)}, f"python benchmarks/{NAME}.py")
    tables.write()


if __name__ == "__main__":
    main()
