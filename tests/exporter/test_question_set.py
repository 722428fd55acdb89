"""Questions through exported graphs: what is cached, batched or cut free must not change an answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")

from tokexport.errors import GraphError
from tokexport.exporter.bundling import graphs
from tokexport.exporter.evaluate import accuracy, answers
from tokexport.exporter.evaluate import question_set as question_set
from tokexport.exporter.evaluate.answers import Encoded, Language
from tokexport.exporter.evaluate.question_set import QuestionSet
from tokexport.exporter.opening import open_source
from tokexport.exporter.sources.source import Question
from tokexport.graph_passes.compressors import Case, make
from tokexport.graph_passes.insertion.insert import insert
from tokexport.graph_passes.insertion.sequence import Step, insert_steps
from tokexport.graph_passes.seams.find import resolve
from tokexport.graph_passes.seams.seam import Seam

KEEP = 21


class Paper:
    """tiny-vlm, 40 questions on 20 scenes, and its graphs for 21 tokens at B = 1 and 16."""

    def __init__(self) -> None:
        self.source = open_source("tiny-vlm", parts="all")
        self.model = graphs.encoder(self.source, "fp32")[0]
        self.seam = resolve(self.model, "encoder_output")
        self.asked = self.source.questions(40, 3)
        self.question_set = QuestionSet.of_questions(self.source, self.model, self.asked)
        self.one, self.many = (Language.export(self.source, KEEP, batch) for batch in (1, 16))


@pytest.fixture(scope="module")
def paper() -> Paper:
    return Paper()


def test_questions_about_one_input_share_it(paper):
    assert len(paper.question_set.inputs) == 20 and paper.question_set.of.tolist() == [i // 2 for i in range(40)]


@pytest.mark.parametrize(
    ("method", "seam"), [("kcenter_merge", ""), ("topk", ""), ("kcenter_merge", "encoder_layer:1")]
)
def test_behind_a_cached_head_the_encoder_gives_what_it_gives_as_a_whole(paper, method, seam):
    place = resolve(paper.model, seam) if seam else paper.seam
    whole = paper.model.clone()
    inserted = insert(whole, place, make(method), KEEP)
    cut, full = paper.question_set.encode(place, make(method), KEEP), paper.question_set.whole(whole, inserted)
    np.testing.assert_allclose(cut.tokens, full.tokens, atol=1e-5)
    for part in ("kept_indices", "sizes", "assignment", "of"):
        np.testing.assert_array_equal(getattr(cut, part), getattr(full, part))
    off = paper.question_set.encode(place, make(method), KEEP, size_bias=False)
    assert (off.sizes == 1).all() and np.allclose(off.tokens, cut.tokens, atol=1e-5) == (not inserted.biased)


@pytest.mark.parametrize("method", ["kcenter_merge", "uniform"])
def test_rebuilt_behind_a_cached_head_are_the_tokens_of_the_whole_encoder(paper, method):
    place, whole = resolve(paper.model, "encoder_layer:1"), paper.model.clone()
    inserted = insert_steps(whole, [Step(make(method), None, KEEP, rebuild=True)], [place])
    cut = paper.question_set.encode(place, make(method), KEEP, rebuild=True)
    full = paper.question_set.whole(whole, inserted)
    np.testing.assert_allclose(cut.tokens, full.tokens, atol=1e-5)
    for part in ("kept_indices", "sizes", "assignment", "of"):
        np.testing.assert_array_equal(getattr(cut, part), getattr(full, part))
    if method == "uniform":
        # The same positions, chosen outside the graph.
        kept = make(method).kept(Case(place.tokens, place.dim, KEEP, place.dtype, place.grid))
        chosen = paper.question_set.select(place, kept, rebuild=True)
        np.testing.assert_allclose(chosen.tokens, full.tokens, atol=1e-5)
        for part in ("kept_indices", "sizes", "assignment", "of"):
            np.testing.assert_array_equal(getattr(chosen, part), getattr(full, part))


def test_batched_answers_are_those_of_one_question_at_a_time(paper):
    encoded = paper.question_set.encode(paper.seam, make("kcenter_merge"), KEEP)
    said = paper.question_set.answer(encoded, paper.many)
    assert said == paper.question_set.answer(encoded, paper.one)
    assert accuracy.graded(paper.source, said, paper.asked)[0] > 0.9 and len(set(said)) > 5


def test_graphs_that_cannot_take_several_are_asked_one_question_at_a_time(paper, monkeypatch):
    def refuse(model, batch):
        raise GraphError("no rule knows the operator")

    assert (paper.one.batch, paper.many.batch) == (1, 16)
    monkeypatch.setattr(answers, "stacked", refuse)
    language = Language.export(paper.source, KEEP)
    assert language.batch == 1
    encoded = paper.question_set.encode(paper.seam, make("kcenter_merge"), KEEP)
    assert paper.question_set.answer(encoded, language) == paper.question_set.answer(encoded, paper.many)


def test_the_head_runs_once_for_all_compressors(paper, monkeypatch):
    ran = []
    original = question_set.ort_runner
    monkeypatch.setattr(
        question_set, "ort_runner", lambda model, threads: ran.append(model.graph.name) or original(model, threads)
    )
    fresh = QuestionSet.of_questions(paper.source, paper.model, paper.asked[:4])
    for method in ("uniform", "kcenter_merge", "topk"):
        fresh.encode(paper.seam, make(method), KEEP)
    fresh.select(paper.seam, np.tile(np.arange(KEEP), (4, 1)))
    # topk reads CLS attention beside the tokens, which nobody had read before.
    assert sum(name.endswith("_head") for name in ran) == 2


def test_selecting_outside_the_graph_is_selecting_inside(paper):
    inside = paper.question_set.encode(paper.seam, make("uniform"), KEEP)
    outside = paper.question_set.select(paper.seam, inside.kept_indices[inside.of])
    for part in ("tokens", "kept_indices", "sizes", "assignment"):
        np.testing.assert_array_equal(getattr(outside, part), getattr(inside, part)[inside.of])
    assert outside.of.tolist() == list(range(40))


def test_merging_from_outside_is_merging_in_the_graph(paper):
    inside = paper.question_set.encode(paper.seam, make("kcenter_merge"), KEEP)
    outside = paper.question_set.select(paper.seam, inside.kept_indices[inside.of], merge=True)
    np.testing.assert_array_equal(outside.sizes, inside.sizes[inside.of])
    np.testing.assert_array_equal(outside.assignment, inside.assignment[inside.of])
    np.testing.assert_allclose(outside.tokens, inside.tokens[inside.of], rtol=1e-4, atol=1e-5)


@given(st.integers(1, 5), st.integers(0, 4), st.integers(0, 1000))
def test_slots_that_fill_up_weigh_nothing(own, more, seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 9, (2, own)).astype(np.float32)
    tokens, kept = rng.normal(size=(2, own, 3)), np.sort(rng.integers(0, 99, (2, own)))
    encoded = Encoded(tokens, kept, sizes, np.zeros((2, 99), np.int64), np.arange(2))
    query = rng.normal(size=3)

    def attention(of: Encoded) -> np.ndarray:
        weights = np.exp(of.tokens @ query) * of.sizes
        return (weights[..., None] * of.tokens).sum(1) / weights.sum(1)[:, None]

    wide = encoded.in_slots(own + more)
    assert wide.tokens.shape[1] == wide.sizes.shape[1] == wide.kept_indices.shape[1] == own + more
    np.testing.assert_allclose(attention(wide), attention(encoded), rtol=1e-6)
    assert np.isfinite(np.log(wide.sizes)).all()
    np.testing.assert_array_equal(encoded.sizes, sizes)


# --- what a method is judged by


def question(content: str) -> Question:
    return Question(np.zeros(1), "", "", np.array([mark == "x" for mark in content]))


@pytest.mark.parametrize(
    ("content", "keep", "kept"),
    [
        ("..xx....", 2, [2, 3]),
        ("..xx....", 4, [1, 2, 3, 6]),  # of 0 1 4 5 6 7 the middles of two halves
        ("xxxxxx..", 3, [1, 3, 5]),
        ("........", 2, [2, 6]),
        ("xxxxxxxx", 8, [0, 1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_the_oracle_keeps_content_first_and_spreads_the_rest(content, keep, kept):
    assert accuracy.oracle_kept([question(content)], keep).tolist() == [kept]


def test_the_largest_reachable_count_is_found_and_none_is_none():
    seam = Seam("s", "t", 144, 8, "float32", 1, 0, (12, 12))
    pool, unshuffle = make("pool"), make("pixel_unshuffle")
    # 6 x 6, 4 x 4 and 3 x 3 of 12 x 12.
    assert [accuracy.largest_keep(pool, seam, keep) for keep in (72, 36, 35, 14)] == [36, 36, 16, 9]
    assert accuracy.largest_keep(unshuffle, seam, 35) is None and "36" in accuracy.refusal(unshuffle, seam, 35)


def test_the_standard_error_is_that_of_a_share(paper):
    asked = [replace(question("x"), answer=answer) for answer in "aaab"]
    share, error = accuracy.graded(paper.source, list("aaaa"), asked)
    assert share == 0.75 and error == pytest.approx((0.75 * 0.25 / 4) ** 0.5)


def test_baselines_are_ten_seeds_uniform_and_the_oracle_each_by_its_own_tokens(paper, monkeypatch):
    """Each encoder's answers are replaced by its own kept positions, and the score by how many of them are even."""
    monkeypatch.setattr(QuestionSet, "answer", lambda self, encoded, language: encoded.kept_indices[encoded.of])
    monkeypatch.setattr(accuracy, "graded", lambda source, said, asked: (float(np.mean(said % 2 == 0)), 0.0))
    found = accuracy.baselines(paper.question_set, paper.seam, paper.many, paper.asked)
    case = accuracy.Case(144, 96, KEEP)
    chances = [np.mean(make("random", {"seed": seed}).kept(case) % 2 == 0) for seed in range(10)]
    assert found["random"] == {
        "mean": pytest.approx(np.mean(chances)),
        "deviation": pytest.approx(np.std(chances)),
        "seeds": 10,
    }
    assert found["uniform"]["accuracy"] == pytest.approx(np.mean(make("uniform").kept(case) % 2 == 0))
    # Of 4 x 4 tokens of a smaller picture, those in the middle of 3 x 3 places each.
    assert found["resolution"] == {"keep": 16, "accuracy": 0.5}
    kept = accuracy.oracle_kept(paper.asked, KEEP)
    assert found["oracle"] == {name: pytest.approx(np.mean(kept % 2 == 0)) for name in ("accuracy", "merged")}
