"""The proof of a whole model: what it says, token by token, against the model's own code on the same real inputs.

The model's own code is fed what the encoder and the compressors' references give in PyTorch, and the logarithm of the
sizes; the graphs run as in a bundle, from what their encoder gave. Both are greedy, so one rounding may choose another
token where two are equally likely, and everything after it differs: such a near tie is counted, and the rest of that
answer is not compared.

A bundle keeps each answer of the model's own code with the scores of the likeliest tokens, so that it is compared again
where that code is not installed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...errors import GraphError
from ...runtimes.generate import Begun, Run, begin, go_on
from ...runtimes.images import count_of, joined, narrowed
from ..freed import give_back
from ..progress import Progress
from .metrics import GATES, Check
from .probes import ANSWERS, Probe

if TYPE_CHECKING:
    import onnx_ir as ir

    from ...runtimes.bundle.manifest import GenerationRecord, Role, Variant
    from ..sources.source import Answered, Source

# Of each answer; more says nothing new about the graphs, and a model with random weights never ends.
_LIMIT = 32
_LIKELIEST = 8
# The first scores of an answer may be so many times as far off as outputs, relative to the largest of them.
_FAR = 5
# Rounding flips one pick in so many at most.
_PICKS_OF = 50
LANGUAGE: tuple[Role, ...] = ("embed", "prefill", "decode")

Arrays = Mapping[str, np.ndarray]
# Of a runtime.
Runner = Callable[["ir.Model"], Callable[[Arrays], dict[str, np.ndarray]]]


@dataclass
class _Counts:
    """Over all samples: tokens compared, how many differ, near ties, inputs whose picks differ, and answers whose picks
    in the language model do."""

    compared: int = 0
    wrong: int = 0
    ties: int = 0
    picks: int = 0
    flipped: int = 0
    worst: str = ""


def answer_probes(source: Source, variant: Variant, encoded: Sequence[Arrays], wholes: Sequence[Arrays]) -> list[Probe]:
    """What the model's own code says to each sample.

    Args:
        source: the model.
        variant: of the manifest.
        encoded: the encoder's outputs by role, for each sample; see `in_prompts`.
        wholes: what they are in PyTorch, likewise: tokens, kept_indices and sizes; empty where that is unknown, and for
            a sample in which rounding flipped a pick: there the model's own code is fed what the graph gave.

    Returns:
        None at all where the source has no other code than the graphs' own.
    """
    record, probes = variant.generation, []
    assert record is not None, "there are language graphs"
    biased = any(step.size_bias for step in variant.compression if step.seam.graph == "encoder")
    limit = min(_LIMIT, record.max_new_tokens)
    for number, own in enumerate(encoded):
        fed = wholes[number] if wholes else own
        same = _same_picks(fed, own, by_position=bool(record.by_position))
        fed = {**own, **fed} if same else own
        sizes = fed["sizes"].astype(np.float32)
        bias = np.log(sizes) if biased else np.zeros_like(sizes)
        images = images_of(record, own)
        answered = source.own_answer(fed, bias, limit, *images)
        if answered is None:
            return []
        how = {"prompt": list(source.proof_prompt(*images)), "limit": limit, "own_picks": not same}
        inputs = {name: own[name] for name in record.reads}
        probes.append(Probe(ANSWERS, "decode", inputs, stored(answered, limit), how))
    return probes


def in_prompts(record: GenerationRecord | None, encoded: Sequence[Arrays]) -> list[dict[str, np.ndarray]]:
    """The inputs of as many prompts as there are samples: these; or several images in each.

    The first prompt has as many as the graphs take, one after it fewer, so that all numbers occur in turn.

    Args:
        record: of the variant.
        encoded: tokens, kept_indices and sizes of each sample.
    """
    most = record.images if record and record.images else 0
    if not most:
        return [dict(one) for one in encoded]
    counts = [most - number % most for number in range(len(encoded))]
    at = [[(number + further) % len(encoded) for further in range(count)] for number, count in enumerate(counts)]
    return [joined([encoded[one] for one in images]) for images in at]


def images_of(record: GenerationRecord | None, encoded: Arrays) -> tuple[int, ...]:
    """How many images were encoded, as `Source.proof_prompt` takes it; nothing where a prompt has one."""
    return (count_of(record, encoded),) if record and record.images else ()


def check_answers(
    probes: Iterable[Probe],
    variant: Variant,
    models: Mapping[Role, ir.Model],
    runner: Runner,
    precision: str,
    step: Progress = lambda text: None,
) -> list[Check]:
    """Compare the answers of a variant's graphs with those of the model's own code.

    Args:
        probes: of the variant; those that hold no answers are left out.
        variant: of the manifest.
        models: graph by role.
        runner: the runtime.
        precision: of the graphs.
        step: called with "generation: ..." as each begins.

    Returns:
        One, or none where there are no answers.

    Raises:
        GraphError: the answers are not those of this model.
    """
    record, counts, distinct = variant.generation, _Counts(), set()
    answers = [probe for probe in probes if probe.part == ANSWERS]
    if record is None or not answers:
        return []
    step(f"{ANSWERS}: prompts")
    begun, run = all_begun(((probe.inputs, probe.method["prompt"]) for probe in answers), variant, models, runner)
    for number, (probe, one) in enumerate(zip(answers, begun)):
        step(f"{ANSWERS}: token by token")
        wanted, how = _answered(probe, record.vocabulary), probe.method
        limit = min(how["limit"], record.max_new_tokens)
        (said,), _, _ = go_on(run, one, limit)
        distinct.update(said)
        counts.picks += how["own_picks"]
        if _same_inside(one, probe, record, counts, number):
            _compare_scores(one, wanted, record, _FAR * GATES[precision][1], counts, number)
            _compare(said, wanted, record, limit, GATES[precision][1], counts, number)
    if not counts.compared and not counts.wrong:
        counts.wrong, counts.worst = 1, "no answer could be compared: tokens picked in the language model differ in all"
    return [
        Check(
            ANSWERS,
            "tokens",
            ok=not counts.wrong,
            cosine=1 - counts.wrong / max(counts.compared, 1),
            norm_ratio=1.0,
            max_abs=float(counts.wrong),
            flipped=counts.ties,
            detail=_said(counts, len(answers), len(distinct)),
        )
    ]


def all_begun(
    asked: Iterable[tuple[Arrays, Sequence[int]]], variant: Variant, models: Mapping[Role, ir.Model], runner: Runner
) -> tuple[list[Begun], Run]:
    """Begin answers about encoded inputs, each to a prompt; and what they go on with, which runs decode.

    Prefill and decode hold the same weights, each for itself: the one is gone before the other is opened.
    """
    run = _by_role(("embed", "prefill"), models, runner)
    begun = [begin(run, variant, encoded, [prompt]) for encoded, prompt in asked]
    del run
    give_back()
    return begun, _by_role(("decode",), models, runner)


def _by_role(roles: Sequence[Role], models: Mapping[Role, ir.Model], runner: Runner) -> Run:
    """Of these language graphs those that there are, as generation runs them."""
    runs = {str(role): runner(models[role]) for role in roles if role in models}

    def run(role: str, /, **inputs: np.ndarray) -> Arrays:
        return runs[role](inputs)

    return run


def stored(answered: Answered, limit: int) -> dict[str, np.ndarray]:
    """The ids [n], the likeliest tokens of each step [n, m], and their scores: with the least one, which may be the
    largest number."""
    scores = np.asarray(answered.scores[:limit], np.float32)
    order = np.argsort(np.where(np.isfinite(scores), -scores, np.inf), axis=1, kind="stable")
    least = np.isfinite(scores).sum(1, keepdims=True) - 1
    near = np.concatenate([order[:, : _LIKELIEST - 1], np.take_along_axis(order, least, 1)], 1)
    ids = np.array(answered.ids[:limit], np.int64)
    found: dict[str, np.ndarray] = {"ids": ids, "near": near.astype(np.int64)}
    return {**found, "scores": np.take_along_axis(scores, near, 1), **answered.picks}


def _answered(probe: Probe, vocabulary: int) -> Answered:
    """What `stored` made, with -inf for all other tokens.

    Raises:
        GraphError: it is damaged.
    """
    from ..sources.source import Answered

    ids, near, scores = (probe.expected.get(name, np.zeros(0)) for name in ("ids", "near", "scores"))
    fits = ids.ndim == 1 and near.ndim == 2 and near.shape == scores.shape and len(ids) == len(near) > 0
    if not (fits and scores.dtype.kind == "f" and all(_are_ids(one, vocabulary) for one in (ids, near))):
        raise GraphError(
            "the proof's answers are not those of this model", where=ANSWERS, fix="Export again: this proof is damaged."
        )
    whole = np.full((len(ids), vocabulary), -np.inf, np.float32)
    np.put_along_axis(whole, near, scores.astype(np.float32), 1)
    return Answered(ids.tolist(), whole)


def _are_ids(array: np.ndarray, vocabulary: int) -> bool:
    return array.dtype == np.int64 and bool(array.size and array.min() >= 0 and array.max() < vocabulary)


def _same_picks(one: Arrays, other: Arrays, *, by_position: bool) -> bool:
    """Whether two compressors kept the same tokens, and merged as many into each, or `by_position` the same."""
    exact = ("kept_indices", *(["assignment"] if by_position else []))
    same = all(np.array_equal(one[name], other[name]) for name in exact)
    return same and np.allclose(one["sizes"], other["sizes"], 1e-3)


def _compare(
    said: list[int],
    answered: Answered,
    record: GenerationRecord,
    limit: int,
    tolerance: float,
    counts: _Counts,
    number: int,
) -> None:
    """Add what one answer shows: tokens are compared up to the first that differs."""
    wanted = answered.ids[:limit]
    # An answer that ended is followed by what ended it, whichever of these ids that was.
    ours = [*said, record.eos[0]] if len(said) < limit else said
    wanted = [record.eos[0] if i in record.eos else i for i in wanted]
    for at, (theirs, own) in enumerate(zip(wanted, ours)):
        counts.compared += 1
        if theirs == own:
            continue
        scores = answered.scores[at]
        possible = scores[np.isfinite(scores)]
        reached = max(scores[i] for i in (record.eos if own == record.eos[0] else [own]))
        behind = float(possible.max() - reached)
        if behind <= tolerance * float(np.abs(possible).max()):
            counts.ties += 1
        else:
            counts.wrong += 1
            counts.worst = counts.worst or (
                f"input {number}: token {at} is {own} and not {theirs}, whose score is {behind:.3g} higher"
            )
        return


def _compare_scores(
    begun: Begun, answered: Answered, record: GenerationRecord, tolerance: float, counts: _Counts, number: int
) -> None:
    """Add what the first scores show: words alone say nothing of a prefill that is a little off.

    A recogniser's are those of its prompt, whose further ids it is told.
    """
    if record.attention == "cross":
        return
    wanted = answered.scores[0]
    told = np.isfinite(wanted)
    own = np.asarray(begun.state["logits"], np.float32).reshape(-1)[told]
    off, most = float(np.abs(own - wanted[told]).max()), float(np.abs(wanted[told]).max())
    if not off <= tolerance * most:
        counts.wrong += 1
        counts.worst = counts.worst or f"input {number}: the first scores are {off:.3g} off, of at most {most:.3g}"


def _same_inside(begun: Begun, probe: Probe, record: GenerationRecord, counts: _Counts, number: int) -> bool:
    """Whether compressors in the language model picked the tokens that the model's own code has there.

    Rounding may flip one pick, or some of very many: then the answers cannot be compared, and that is counted. More
    picks that differ are wrong.
    """
    same, count = True, sum(images_of(record, probe.inputs)) or 1
    for name, wanted in probe.expected.items():
        if not name.startswith("kept_indices_"):
            continue
        own = narrowed(np.asarray(begun.state[name]), record, count)
        differ = wanted.size
        if own.shape == wanted.shape:
            # Those of each image count from its own first token.
            pairs = zip(np.split(own, count, 1), np.split(wanted, count, 1))
            differ = sum(len(np.setdiff1d(one, other)) for one, other in pairs)
        if differ > max(1, wanted.size // _PICKS_OF):
            counts.wrong += 1
            counts.worst = counts.worst or f"input {number}: {differ} of {wanted.size} picks of {name} differ"
        same = same and not differ
    counts.flipped += not same
    return same


def _said(counts: _Counts, samples: int, distinct: int) -> str:
    told = [f"{counts.compared} tokens of {samples} answers compared with the model's own code, {distinct} distinct"]
    if counts.ties:
        told.append(f"{counts.ties} answers not compared to their end: two tokens were equally likely")
    if counts.flipped:
        told.append(f"{counts.flipped} answers not compared: other tokens were picked in the language model")
    if counts.picks:
        told.append(f"{counts.picks} inputs as the graph compressed them: rounding flipped a pick")
    return "; ".join([*([counts.worst] if counts.worst else []), *told])
