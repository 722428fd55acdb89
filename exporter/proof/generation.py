"""The proof of a whole model: what it says, token by token, against the model's own code on the same real inputs.

The model's own code is fed what the encoder and the compressors' references give in PyTorch, and the logarithm of the
sizes; the graphs run as in a bundle. Both are greedy, so one rounding may choose another token where two are equally
likely, and everything after it differs: such a near tie is counted, and the rest of that answer is not compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...runtimes.generate import greedy
from .metrics import GATES, Check

if TYPE_CHECKING:
    from ...runtimes.bundle.manifest import GenerationRecord, Variant
    from ..sources.source import Answered, Source

PART = "generation"

# Of each answer; more says nothing new about the graphs, and a model with random weights never ends.
_LIMIT = 48

Arrays = Mapping[str, np.ndarray]


@dataclass
class _Counts:
    """Over all samples: tokens compared, how many differ, near ties, and inputs whose picks differ."""

    compared: int = 0
    wrong: int = 0
    ties: int = 0
    picks: int = 0
    worst: str = ""


def check_generation(
    source: Source,
    variant: Variant,
    run: Any,
    encoded: Sequence[Arrays],
    wholes: Sequence[Arrays],
    precision: str,
) -> Check | None:
    """Compare the answers of a variant's graphs with those of the model's own code.

    Args:
        source: the model.
        variant: of the manifest.
        run: `runtimes.generate.Run` for the language graphs.
        encoded: the encoder's outputs by role, for each sample.
        wholes: what they are in PyTorch, likewise: tokens, kept_indices and sizes; empty where that is unknown, and for
            a sample in which rounding flipped a pick: there the model's own code is fed what the graph gave.
        precision: of the graphs.

    Returns:
        None where the source has no other code than the graphs' own.
    """
    record, counts, distinct = variant.generation, _Counts(), set()
    assert record is not None, "there are language graphs"
    biased = any(step.size_bias for step in variant.compression)
    limit = min(_LIMIT, record.max_new_tokens)
    for number, own in enumerate(encoded):
        fed = wholes[number] if wholes else own
        if not _same_picks(fed, own):
            counts.picks, fed = counts.picks + 1, own
        sizes = fed["sizes"].astype(np.float32)
        bias = np.log(sizes) if biased else np.zeros_like(sizes)
        answered = source.own_answer(fed, bias, limit)
        if answered is None:
            return None
        said, _, _ = greedy(run, variant, own, source.proof_prompt(), limit)
        distinct.update(said)
        _compare(said, answered, record, limit, GATES[precision][1], counts, number)
    return Check(
        PART,
        "tokens",
        ok=not counts.wrong,
        cosine=1 - counts.wrong / max(counts.compared, 1),
        norm_ratio=1.0,
        max_abs=float(counts.wrong),
        flipped=counts.ties,
        detail=_said(counts, len(encoded), len(distinct)),
    )


def _same_picks(one: Arrays, other: Arrays) -> bool:
    """Whether two compressors kept the same tokens, and merged as many into each."""
    return np.array_equal(one["kept_indices"], other["kept_indices"]) and np.allclose(
        one["sizes"], other["sizes"], 1e-3
    )


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


def _said(counts: _Counts, samples: int, distinct: int) -> str:
    told = [f"{counts.compared} tokens of {samples} answers compared with the model's own code, {distinct} distinct"]
    if counts.ties:
        told.append(f"{counts.ties} answers not compared to their end: two tokens were equally likely")
    if counts.picks:
        told.append(f"{counts.picks} inputs as the graph compressed them: rounding flipped a pick")
    return "; ".join([*([counts.worst] if counts.worst else []), *told])
