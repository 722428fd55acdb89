"""What a sweep judges by: right answers of a built-in model, or agreement on a folder of the user's own inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ...errors import RequestError
from ...graph_passes.compressors import make
from .accuracy import graded, oracle_kept
from .agreement import cosine, of_answers, read_folder, same_answer, words_alike
from .answers import Encoded
from .question_set import QuestionSet, prompts_of

if TYPE_CHECKING:
    from ...graph_passes.seams.seam import Seam
    from ..sources.source import Question
    from .bench import Bench, Model


_METRICS = {
    "cosine": "cosine of the encoder's output tokens with the uncompressed ones",
    "agreement": "answers equal to the uncompressed model's",
    "embedding": "cosine of the embedding with the uncompressed one",
    "logits": "likeliest classes equal to the uncompressed model's",
}


class Judge(Protocol):
    """Judges encoders.

    Attributes:
        figure: the name of the main figure in `score`.
        metric: that figure in words.
        seeds: of the questions; each is judged by itself.
        facts: what the figures depend on, as JSON.
        notes: what a reader must know.
    """

    figure: str
    metric: str
    seeds: Sequence[int]
    facts: dict[str, Any]
    notes: list[str]

    def question_set(self, model: Model, seed: int) -> QuestionSet:
        """The inputs and prompts of a seed for a model."""
        ...

    def score(self, question_set: QuestionSet, seam: Seam, encoded: Encoded, keep: int, seed: int) -> dict[str, float]:
        """`figure` and its standard error ``stderr``, through language graphs for `keep` tokens; and what else is."""
        ...

    def oracle(self, seed: int, keep: int) -> np.ndarray | None:
        """Positions [Q, K] of the tokens that show what matters; None where nobody knows them."""
        ...


class Questions:
    """The questions of a built-in model.

    Args:
        bench: of the model.
        count: questions of a seed.
        seeds: how many seeds.
    """

    figure = "accuracy"

    def __init__(self, bench: Bench, count: int, seeds: int) -> None:
        self.metric = bench.source.metric
        self.seeds: Sequence[int] = range(seeds)
        self.facts: dict[str, Any] = {"questions": count}
        self.notes: list[str] = []
        self._bench, self._count = bench, count
        self._asked: dict[int, list[Question]] = {}
        self._question_sets: dict[tuple[int, int], QuestionSet] = {}

    def question_set(self, model: Model, seed: int) -> QuestionSet:
        """See `Judge`; kept, because its encoder runs once for all compressors."""
        key = id(model), seed
        if key not in self._question_sets:
            self._question_sets[key] = QuestionSet.of_questions(model.source, model.encoder, self._questions(seed))
        return self._question_sets[key]

    def score(self, question_set: QuestionSet, seam: Seam, encoded: Encoded, keep: int, seed: int) -> dict[str, float]:
        """The score of the answers."""
        said = question_set.answer(encoded, self._bench.language(keep))
        share, error = graded(question_set.source, said, self._questions(seed))
        return {"accuracy": share, "stderr": error}

    def oracle(self, seed: int, keep: int) -> np.ndarray | None:
        """See `Judge`."""
        return oracle_kept(self._questions(seed), keep)

    def _questions(self, seed: int) -> list[Question]:
        if seed not in self._asked:
            self._asked[seed] = self._bench.source.questions(self._count, seed)
        return self._asked[seed]


class Folder:
    """Agreement with the uncompressed model on the files of a folder.

    Args:
        bench: of the model.
        folder: images, videos or sounds, or .npy files that hold the encoder's input.
        prompt: asked about each of them, where the model has language graphs.

    Raises:
        RequestError: as `read_folder` does; a prompt and nothing that could answer it, or none where one is needed.
    """

    def __init__(self, bench: Bench, folder: Path, prompt: str | None) -> None:
        self._bench = bench
        generation = bench.source.generation(1)
        if prompt is not None and generation is None:
            raise RequestError(
                f"{bench.source.name} has no language graphs here that could answer a prompt",
                fix="Leave --prompt out: the encoder's output tokens are compared.",
            )
        if prompt is not None and generation is not None and generation.speech is not None:
            raise RequestError(
                f"{bench.source.name} writes down what it hears, and is asked nothing", fix="Leave --prompt out."
            )
        if prompt is None and generation is not None and generation.attention == "self":
            raise RequestError(
                f"{bench.source.name} answers questions about its inputs, and none is asked",
                fix="Ask one of each: --prompt 'how many red objects are there ?'",
            )
        answer = bench.source.answer
        self.figure = "cosine" if generation is None and answer != "logits" else "agreement"
        self.metric = _METRICS[answer or self.figure]
        self._alike = same_answer
        self._inputs, self.facts, self.notes = read_folder(folder, bench.source)
        if generation is not None:
            self.metric = "answers equal to the uncompressed model's"
        if generation is not None and generation.attention == "cross":
            # One word of a long transcript is not all of it.
            self.metric = "1 - word error rate against the uncompressed model's transcripts"
            self.facts["agreement"], self._alike = "words", words_alike
        self.facts["prompt"] = self._prompt = prompt or ""
        if prompt is not None and bench.source.processor.tokenizer is not None:
            prompts_of(bench.source, [prompt])
        self.seeds: Sequence[int] = (0,)
        self._question_sets: dict[int, QuestionSet] = {}
        self._full: dict[int, Encoded] = {}
        self._said: list[str] = []

    def question_set(self, model: Model, seed: int) -> QuestionSet:
        """See `Judge`."""
        if id(model) not in self._question_sets:
            count = len(self._inputs)
            prompts = [self._prompt] * count
            self._question_sets[id(model)] = QuestionSet(
                model.source, model.encoder, self._inputs, range(count), prompts
            )
        return self._question_sets[id(model)]

    def score(self, question_set: QuestionSet, seam: Seam, encoded: Encoded, keep: int, seed: int) -> dict[str, float]:
        """How far answers agree, where there are any, and the cosine of the output tokens, or of the embedding."""
        base = self._bench.base
        whole = self.question_set(base, seed)
        if seam.tokens not in self._full:
            uniform = make("uniform")
            self._full[seam.tokens] = whole.encode(base.seam(uniform), uniform, seam.tokens, rebuild=base.rebuild)
        full, answer = self._full[seam.tokens], self._bench.source.answer
        if base.rebuild:
            seam = replace(seam, tokens=self._bench.leaving(keep), grid=None)
        if answer == "embedding":
            assert full.answer is not None and encoded.answer is not None, "its encoder gives it"
            each = of_answers(full.answer, encoded.answer, answer)
            return {"cosine": float(each.mean()), "stderr": float(each.std() / len(each) ** 0.5)}
        each = cosine(full.tokens, encoded, seam)
        scores = {"cosine": float(each.mean())}
        if answer == "logits":
            assert full.answer is not None and encoded.answer is not None, "its encoder gives it"
            each = of_answers(full.answer, encoded.answer, answer)
            scores["agreement"] = float(each.mean())
        elif self.figure == "agreement":
            self._said = self._said or whole.answer(full, self._bench.language(seam.tokens))
            said = question_set.answer(encoded, self._bench.language(keep))
            each = np.array([self._alike(one, other) for one, other in zip(said, self._said, strict=True)], np.float64)
            scores["agreement"] = float(each.mean())
        return {**scores, "stderr": float(each.std() / len(each) ** 0.5)}

    def oracle(self, seed: int, keep: int) -> np.ndarray | None:
        """Nobody knows."""
        return None
