"""The field's ideas of how a slot should count, each against log(size), on the built-in models: docs/ideas.md.

    OMP_NUM_THREADS=1 python benchmarks/ideas.py [tiny-vlm tiny-video tiny-asr]     about five minutes of one core each
    OMP_NUM_THREADS=1 python benchmarks/ideas.py tiny-ocr --ours
    python benchmarks/ideas.py --tables

Everything is in PyTorch: the models' own modules and the methods' references. A method that merges is measured against
log(size), one that selects against no bias, idea by idea on the same questions: a difference has the standard error of
the differences of single inputs. There are two sets of questions. What is chosen on the first, such as a constant, is
judged by the second.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from math import ceil
from typing import Any

import numpy as np
import tables
import torch
from idea_readers import Answering, Listening, Slots, Way
from report import gained, known, save
from tokexport.exporter.zoo.tiny_asr import evaluate as asr
from tokexport.exporter.zoo.tiny_asr import model as asr_model
from tokexport.exporter.zoo.tiny_ocr import evaluate as ocr
from tokexport.exporter.zoo.tiny_ocr import model as ocr_model
from tokexport.exporter.zoo.tiny_ocr.text import WORDS as OCR_WORDS
from tokexport.exporter.zoo.tiny_video import evaluate as video
from tokexport.exporter.zoo.tiny_video import model as video_model
from tokexport.exporter.zoo.tiny_video.clips import clip_values
from tokexport.exporter.zoo.tiny_video.text import WORDS as VIDEO_WORDS
from tokexport.exporter.zoo.tiny_vlm import evaluate as vlm
from tokexport.exporter.zoo.tiny_vlm import model as vlm_model
from tokexport.exporter.zoo.tiny_vlm.scenes import pixel_values
from tokexport.exporter.zoo.tiny_vlm.text import WORDS
from tokexport.graph_passes.compressors import make
from tokexport.graph_passes.compressors.blocks.means import means
from tokexport.graph_passes.compressors.blocks.squares import square_distances
from tokexport.graph_passes.reference import reference
from torch import Tensor

RATIOS = (0.75, 0.85, 0.9, 0.95)
# Set -> seed of its questions and their number; the first are those of benchmarks/methods.py.
SETS = {"first": (0, 512), "second": (15, 512)}
# Fresh questions on which what came of them is compared with the methods there were.
FRESH = {"tiny-vlm": 2048, "tiny-ocr": 2048, "tiny-video": 1024, "tiny-asr": 1024}
FRESH_SEED = 16
OURS: dict[str, dict[str, Any]] = {
    "nearest_merge": {},
    "nearest_merge:rest=count": {"rest": "count"},
    "nearest_merge:picks=uniform": {"picks": "uniform"},
}
RIVALS = ("kcenter_merge", "two_scale")
MERGING: dict[str, dict[str, Any]] = {
    "kcenter_merge": {},
    "two_scale": {},
    "tome": {"metric": "tokens"},
    "dpc_knn": {},
}
SELECTING: dict[str, dict[str, Any]] = {"uniform": {}, "random": {}, "divprune": {}, "topk": {"score": "norm"}}
CONSTANTS = (-1.0, 1.0, 2.0)

LOG_SIZE = Way(sizes="members")
PLAIN: dict[str, Way] = {"merging": LOG_SIZE, "selecting": Way()}
IDEAS: dict[str, dict[str, Way]] = {
    "merging": {
        "no bias": Way(),
        "median": replace(LOG_SIZE, median=True),
        "distance to the query": replace(LOG_SIZE, distance="query"),
        "distance to the members": replace(LOG_SIZE, distance="members"),
        "unmerged": Way(unmerge="all"),
        "unmerged, keys alone": Way(unmerge="keys"),
        "unmerged, keys alone, in prefill": replace(LOG_SIZE, unmerge="prefill"),
        "unmerged, own differences": Way(unmerge="all", own=True),
        "spread, scalar": replace(LOG_SIZE, spread="scalar"),
        "spread, full": replace(LOG_SIZE, spread="full"),
        **{f"spread, constant {c:g}": replace(LOG_SIZE, constant=c) for c in CONSTANTS},
    },
    "selecting": {
        "log(N/K)": Way(sizes="even"),
        "log(members)": LOG_SIZE,
        "log(members), unmerged": Way(unmerge="all"),
        "log(members), spread, scalar": replace(LOG_SIZE, spread="scalar"),
        "log(members), averaged": replace(LOG_SIZE, average=True),
    },
}


def placed(way: Way) -> bool:
    """Whether it changes nothing where tokens have no positions: unmerged, n equal members are e^log(n) of one."""
    return way.median or bool(way.distance) or (bool(way.unmerge) and not way.own)


Wrong = Callable[[Slots, Way], np.ndarray]


class Model:
    """One built-in model with a set of questions.

    Attributes:
        features: [S, N, D], what the encoder gives.
        signals: that methods read beside them.
        of: [Q], the input of each question.
        units: [Q], what `wrong` counts in each: one answer, or the words said.
        wrong: (slots, way) -> [Q] float64.
        project: features -> tokens that the language model reads.
    """

    def __init__(self, name: str, seed: int, questions: int) -> None:
        self.name, self.signals = name, dict[str, Tensor]()
        self.wrong: Wrong
        if name == "tiny-asr":
            model = asr_model.load()
            heard = asr.question_set(questions, seed)
            self.features = asr.encode(model, np.stack([one.waveform for one in heard]))
            self.wrong = Listening(model, [one.text for one in heard]).wrong
            self.of = np.arange(questions)
            self.units = np.array([len(one.text.split()) for one in heard], float)
            self.project: Callable[[Tensor], Tensor] = lambda features: features
            return
        with torch.inference_mode():
            if name in ("tiny-vlm", "tiny-ocr"):
                zoo, asked, words = (vlm_model, vlm, WORDS) if name == "tiny-vlm" else (ocr_model, ocr, OCR_WORDS)
                model, drawn = zoo.load(), asked.question_set(questions, seed)
                seen, attention = model.vision.with_cls_attention(torch.from_numpy(pixel_values(drawn.pixels)))
                self.features, self.signals = seen[:, 1:], {"cls_attention": attention}
            else:
                model, drawn, words = video_model.load(), video.question_set(questions, seed), VIDEO_WORDS
                self.features = model.vision(torch.from_numpy(clip_values(drawn.pixels)))
        self.wrong = Answering(model, drawn, words).wrong
        self.of, self.units = drawn.scene, np.ones(questions)
        self.project = model.projector

    def methods(self, kind: str) -> dict[str, dict[str, Any]]:
        """Those of a kind; where there is CLS attention, tokens are ranked by it."""
        if kind == "selecting" and self.signals:
            return {**SELECTING, "topk": {}}
        return MERGING if kind == "merging" else SELECTING

    @torch.inference_mode()
    def slots(self, method: str, params: dict[str, Any], keep: int, *, average: bool = False) -> Slots:
        """What a method makes of the features, at its paper's seam; `average`: see `Way`."""
        compressor = make(method, params)
        behind = compressor.method.seam == "projector_output"
        x = self.project(self.features) if behind else self.features
        signals = {name: self.signals[name] for name in compressor.signals()}
        made = reference(method, x, keep=keep, params=params, **signals)
        member = made.assignment
        if not compressor.method.merges:
            # A token that was dropped is a member of the nearest slot; one that was kept, of its own.
            member = torch.where(member < 0, square_distances(x, made.tokens).argmin(2), member)
            made = means(x, made.kept_indices, member) if average else made
        tokens = made.tokens if behind else self.project(made.tokens)
        return Slots(tokens, made.kept_indices, member, self.project(self.features))

    def whole(self) -> float:
        """The score with all tokens."""
        n = self.features.shape[1]
        return self.score(self.wrong(self.slots("uniform", {}, n), Way()))

    def score(self, wrong: np.ndarray) -> float:
        """Answers, or words, that are right."""
        return float(1 - wrong.sum() / self.units.sum())

    def gain(self, before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
        """How much better, and its standard error; questions about one input are not independent."""
        return gained(before - after, self.units, self.of)


def measure(model: Model, before: dict[str, Any] | None) -> dict[str, Any]:
    """All cells of one set of questions, and the mean of each idea over those of its kind.

    Args:
        model: with the questions.
        before: the first set; an idea that gained no more than a standard error there is not measured again, nor is
            what is no method but a bound.
    """
    n = model.features.shape[1]
    found: dict[str, Any] = {"questions": len(model.of), "tokens": n, "uncompressed": model.whole()}
    for kind in PLAIN:
        first = before[kind]["ideas"] if before else {}
        ideas = {name: way for name, way in IDEAS[kind].items() if model.name != "tiny-asr" or not placed(way)}
        ideas = {name: way for name, way in ideas.items() if not first or (hopeful(first[name]) and not way.own)}
        total: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in ideas}
        rows: dict[str, Any] = {}
        for method, params in model.methods(kind).items():
            for ratio in RATIOS:
                keep = n - ceil(ratio * n)
                slots = model.slots(method, params, keep)
                plain = model.wrong(slots, PLAIN[kind])
                row: dict[str, Any] = {"keep": keep, "plain": model.score(plain)}
                for name, way in ideas.items():
                    averaged = model.slots(method, params, keep, average=True) if way.average else slots
                    after = model.wrong(averaged, way)
                    total[name].append((plain, after))
                    gain, error = model.gain(plain, after)
                    row[name] = {"score": model.score(after), "gain": gain, "stderr": error}
                rows.setdefault(method, {})[str(ratio)] = row
                print(f"{model.name} {method} {ratio} {row['plain']:.3f}", flush=True)
        found[kind] = {"rows": rows, "ideas": {name: _mean(model, pairs) for name, pairs in total.items()}}
    return found


def ours(model: Model) -> dict[str, Any]:
    """nearest_merge beside the best there were, all with log(size); gains against each of these."""
    n = model.features.shape[1]
    found: dict[str, Any] = {"questions": len(model.of), "rows": {}}
    for ratio in RATIOS:
        keep = n - ceil(ratio * n)
        wrong = {}
        for name, params in {**{rival: {} for rival in RIVALS}, **OURS}.items():
            wrong[name] = model.wrong(model.slots(name.partition(":")[0], params, keep), LOG_SIZE)
            row = found["rows"].setdefault(name, {}).setdefault(str(ratio), {"score": model.score(wrong[name])})
            for rival in RIVALS if name in OURS else ():
                gain, error = model.gain(wrong[rival], wrong[name])
                row[rival] = {"gain": gain, "stderr": error}
            print(f"{model.name} {name} {ratio} {row}", flush=True)
    return found


def hopeful(mean: dict[str, float]) -> bool:
    """Whether it gained more than one standard error."""
    return mean["gain"] > mean["stderr"]


def _mean(model: Model, pairs: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Over cells, whose questions are the same."""
    gain, error = model.gain(np.mean([before for before, _ in pairs], 0), np.mean([after for _, after in pairs], 0))
    return {"gain": gain, "stderr": error}


def main() -> None:
    """Measure, keep what is there of other models, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", default=["tiny-vlm", "tiny-video", "tiny-asr"])
    parser.add_argument("--sets", nargs="*", default=list(SETS), choices=SETS)
    parser.add_argument("--ours", action="store_true", help="nearest_merge alone, on fresh questions")
    parser.add_argument("--tables", action="store_true", help="measure nothing")
    asked = parser.parse_args()
    for source in [] if asked.tables else asked.sources:
        for name in ["ours"] if asked.ours else [*asked.sets, "ours"]:
            if name == "ours":
                found = ours(Model(source, FRESH_SEED, FRESH[source]))
            else:
                first = known("ideas").get(source, {}).get("first") if name == "second" else None
                found = measure(Model(source, *SETS[name]), first)
            # Others may have measured meanwhile.
            done = known("ideas")
            done.setdefault(source, {})[name] = found
            save("ideas", done, "python benchmarks/ideas.py")
    tables.write()


if __name__ == "__main__":
    main()
