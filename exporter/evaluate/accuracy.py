"""Task accuracy of an export of a built-in model, beside what it is to be judged by.

`measure` gives what the manifest keeps under ``parity.accuracy`` and the report shows:

    {"questions": 512, "seed": 0, "metric": "answers right",
     "compressed": 0.986,        the bundle's own graphs, as they were written
     "stderr": 0.005,            standard error of `compressed`
     "uncompressed": 0.998,      the model in PyTorch
     "share": 0.988,             compressed / uncompressed
     "baselines": {              all in the bundle's language graphs and, but for two, with its number of tokens K
        "random": {"mean": 0.67, "deviation": 0.03, "seeds": 10},
        "uniform": {"accuracy": 0.69},
        "resolution": {"keep": 16, "accuracy": 0.44}, a smaller picture; absent where the model takes one size only
        "pool": {"keep": 16, "accuracy": 0.85},       the largest grid of at most K tokens; absent where there is none
        "oracle": {"accuracy": 0.85,                  the tokens that show what is asked for first
                   "merged": 0.99}}}                  the same, and all others averaged into the nearest of them

`random` is the mean over ten seeds with their standard deviation, and `random`, `uniform` and `pool` sit at the seam of
the method, or of a recipe's last step. For `resolution`, the encoder that nothing was put into reads a smaller picture:
see `exporter.evaluate.resolution`. The oracle is what selecting by content alone can reach: no ceiling where a
model reads the ground as well as what stands on it, as tiny-vlm does. That of merging is `merged`, weighed by
log(size). Where tokens that are compressed inside the encoder are rebuilt, there are only `random` and `uniform`, in
the place of every compressor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import RequestError
from ...graph_passes.compressors import Case, Compressor, make, names
from ...graph_passes.compressors.random import Random
from ...graph_passes.compressors.uniform import Uniform
from . import known, resolution
from .answers import READ, Encoded, Language
from .question_set import QuestionSet

if TYPE_CHECKING:
    from ...graph_passes.seams.seam import Seam
    from ...runtimes.bundle.manifest import Variant
    from ..bundling.graphs import Built, Plan
    from ..sources.source import Question, Source

SEED = 0
SEEDS = 10


def measure(plan: Plan, built: Built, folder: Path, variant: Variant, questions: int) -> dict[str, Any]:
    """Ask the graphs at `folder` in ONNX Runtime, and the uncompressed model in PyTorch, the same questions.

    What does not depend on the method is measured once and known from then on (see `known`).

    Args:
        plan: of a built-in model, with all its graphs.
        built: the graphs.
        folder: where they were written.
        variant: names their files.
        questions: how many.

    Returns:
        See the module docstring.

    Raises:
        MissingError: what the questions need is not installed.
    """
    from ...graph_passes.ir_tools.model_io import load_model
    from ...graph_passes.seams.find import resolve
    from ..bundling import graphs

    source, inserted = plan.source, built.inserted
    asked = source.questions(questions, SEED)
    models = {role: load_model(folder / graph.forms["portable"]) for role, graph in variant.graphs.items()}
    language = Language(models, source.generation(inserted.leaving))  # type: ignore[arg-type]
    question_set = QuestionSet.of_questions(source, built.uncompressed, asked)
    bias = plan.size_bias != "off"
    encoded = question_set.whole(models["encoder"], inserted, size_bias=bias, text=models.get("text"))
    said = question_set.answer(encoded, language)
    compressed, error = graded(source, said, asked)
    same = {"questions": known.questions_hash(asked), "seed": SEED, "source": source.sha256}
    uncompressed = known.figure(
        {**same, "figure": "uncompressed"}, lambda: source.uncompressed_accuracy(questions, SEED)
    )
    found = {
        "questions": len(asked),
        "seed": SEED,
        "metric": source.metric,
        "compressed": compressed,
        "stderr": error,
        "uncompressed": uncompressed,
        "share": compressed / uncompressed,
    }
    if inserted.rebuilt:
        return found | {"baselines": _rebuilt(plan, built, question_set, language, asked)}
    # The seam of the last step, in the graph without any step: baselines take all tokens there.
    seam = resolve(built.uncompressed, inserted.seam.name)
    if source.plain is not None:
        # The other methods take the weights that the model has for them, behind the seam of the same name.
        encoder = graphs.encoder(source.plain, "fp32")[0]
        question_set, seam = QuestionSet.of_questions(source.plain, encoder, asked), resolve(encoder, seam.name)
    of = {
        **same,
        "figure": "baselines",
        "seeds": SEEDS,
        "keep": language.keep,
        "seam": [seam.name, seam.tensor],
        "encoder": known.graph_hash(question_set.encoder),
        "language": {role: known.graph_hash(model) for role, model in sorted(models.items()) if role in READ},
    }
    return found | {"baselines": known.figure(of, lambda: baselines(question_set, seam, language, asked))}


def _rebuilt(
    plan: Plan, built: Built, question_set: QuestionSet, language: Language, asked: Sequence[Question]
) -> dict[str, Any]:
    """The same where tokens are rebuilt: as many random and evenly spread ones inside, the others rebuilt too."""
    from ..bundling import graphs

    def share(method: Compressor) -> float:
        model = built.uncompressed.clone()
        steps = tuple(replace(step, compressor=method, shares={}) for step in plan.steps)
        encoded = question_set.whole(model, graphs.compress(replace(plan, steps=steps), model))
        return graded(question_set.source, question_set.answer(encoded, language), asked)[0]

    chances = [share(make("random", {"seed": seed})) for seed in range(SEEDS)]
    return {
        "random": {"mean": float(np.mean(chances)), "deviation": float(np.std(chances)), "seeds": SEEDS},
        "uniform": {"accuracy": share(make("uniform"))},
    }


def baselines(question_set: QuestionSet, seam: Seam, language: Language, asked: Sequence[Question]) -> dict[str, Any]:
    """What a method of the same K has to beat; see the module docstring."""

    def share(encoded: Encoded) -> float:
        return graded(question_set.source, question_set.answer(encoded, language), asked)[0]

    def fixed(method: Random | Uniform) -> Encoded:
        # Their positions are known beforehand: no graph has to be made for each of them.
        kept = method.kept(Case(seam.tokens, seam.dim, language.keep, seam.dtype, seam.grid))
        return question_set.select(seam, kept)

    chances = [share(fixed(Random(seed))) for seed in range(SEEDS)]
    found: dict[str, Any] = {
        "random": {"mean": float(np.mean(chances)), "deviation": float(np.std(chances)), "seeds": SEEDS},
        "uniform": {"accuracy": share(fixed(Uniform()))},
    }
    smaller, _ = resolution.smaller_encoder(question_set.source, seam, language.keep)
    if smaller is not None:
        encoded = resolution.encode(question_set, smaller)
        found[resolution.NAME] = {"keep": encoded.kept_indices.shape[1], "accuracy": share(encoded)}
    pooled = pool_keep(seam, language.keep)
    if pooled is not None:
        found["pool"] = {"keep": pooled, "accuracy": share(question_set.encode(seam, make("pool"), pooled))}
    best = oracle_kept(asked, language.keep)
    found["oracle"] = {
        "accuracy": share(question_set.select(seam, best)),
        "merged": share(question_set.select(seam, best, merge=True)),
    }
    return found


def graded(source: Source, said: Sequence[str], asked: Sequence[Question]) -> tuple[float, float]:
    """The score of the answers, and its standard error: the questions' own scores, spread over their number."""
    answers = [question.answer for question in asked]
    each = [source.score([one], [answer]) for one, answer in zip(said, answers, strict=True)]
    return source.score(said, answers), float(np.std(each) / len(each) ** 0.5)


def oracle_kept(asked: Sequence[Question], keep: int) -> np.ndarray:
    """Positions [Q, K] int64, ascending: of each question the tokens that show its content.

    More of them than K: evenly spread ones. Fewer: all, and evenly spread others.
    """

    def one(content: np.ndarray) -> np.ndarray:
        shown, others = np.flatnonzero(content), np.flatnonzero(~content)
        if len(shown) >= keep:
            return shown[_spread(len(shown), keep)]
        return np.sort(np.concatenate([shown, others[_spread(len(others), keep - len(shown))]]))

    return np.stack([one(question.content) for question in asked])


def pool_keep(seam: Seam, keep: int) -> int | None:
    """The largest number of at most `keep` tokens that pool reaches at a seam; None where it reaches none."""
    return largest_keep(make("pool"), seam, keep) if "pool" in names() else None


def largest_keep(compressor: Compressor, seam: Seam, keep: int) -> int | None:
    """The largest number of at most `keep` tokens that a method is defined for at a seam; None where there is none."""
    return next((fewer for fewer in range(keep, 0, -1) if not refusal(compressor, seam, fewer)), None)


def refusal(compressor: Compressor, seam: Seam, keep: int) -> str:
    """Why a method is not defined for K = `keep` at a seam, or nothing."""
    try:
        compressor.check(Case(seam.tokens, seam.dim, keep, seam.dtype, seam.grid))
    except RequestError as error:
        return str(error)
    return ""


def _spread(n: int, k: int) -> np.ndarray:
    """k of n positions, the middles of k equal parts."""
    return (2 * np.arange(k) + 1) * n // (2 * k)
