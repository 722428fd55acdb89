"""How far language graphs with quantised weights agree with the float graphs that they were made of.

Float graphs are compared with PyTorch, within the tolerance of their precision. Weights in 8 or 4 bits are outside of
every such tolerance and may still say the same. So what they would say is compared: a text is given word by word,
behind a prompt about a real input, and at each word counts whether both find the same word likeliest (agreement), and
how likely the text's own word is (perplexity). The texts are the float graphs' own answers, and where the model reads
words among pictures, a passage of English.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import GraphError
from ...runtimes.choose import Rules
from ...runtimes.generate import go_along, go_on
from ...runtimes.tokenizer_file import TokenizerFile
from ..progress import Progress
from .generation import Arrays, Runner, all_begun, images_of, stored
from .metrics import Check
from .probes import AGREEMENT, ANSWERS, Probe

if TYPE_CHECKING:
    import onnx_ir as ir

    from ...graph_passes.precision.blocks import Weights
    from ...runtimes.bundle.manifest import GenerationRecord, Role, Variant
    from ...runtimes.generate import Begun, Run
    from ..sources.source import Source

# Least agreement where --min-agreement says nothing.
LEAST: dict[str, float] = {"int8": 0.95, "int4": 0.8}

PASSAGE = Path(__file__).with_name("passage.txt")
# Words of a text; a passage with fewer different ones is none in this vocabulary.
_LONGEST, _DISTINCT = 64, 16
# Prompts about each input, where the model has several: their answers are short.
_PROMPTS = 12


def agreement_probes(
    source: Source,
    variant: Variant,
    encoded: Sequence[Arrays],
    models: Mapping[Role, ir.Model],
    runner: Runner,
    weights: Weights,
    least: float | None,
) -> list[Probe]:
    """What the float graphs expect of each text.

    Args:
        source: of the model.
        variant: of the manifest.
        encoded: the encoder's outputs by role, for each sample; see `in_prompts`.
        models: the float graphs by role.
        runner: the runtime.
        weights: those of the graphs that will be compared.
        least: the least agreement; None: that of `LEAST`.
    """
    record = variant.generation
    assert record is not None, "there are language graphs"
    method = {"least": LEAST[weights] if least is None else least, "weights": weights}
    inputs = [{name: one[name] for name in record.reads} for one in encoded]
    prompts, limit = [_prompts(source, record, one) for one in inputs], min(_LONGEST, record.max_new_tokens)
    passage = _passage(source, record)[:limit]
    texts: list[tuple[Arrays, list[int], list[int]]] = []
    texts += [(one, prompt, []) for one, asked in zip(inputs, prompts) for prompt in asked]
    texts += [(inputs[0], prompts[0][0], passage)] if len(set(passage)) >= _DISTINCT else []
    begun, run = all_begun((text[:2] for text in texts), variant, models, runner)
    probes = []
    for (one, prompt, ids), at_first in zip(texts, begun):
        ids, scores = (ids, _along(run, at_first, ids)) if ids else _answer(run, at_first, limit)
        likeliest, own = _expected(scores, ids)
        expected = {"ids": np.array(ids, np.int64), "likeliest": likeliest, "own": own}
        probes.append(Probe(AGREEMENT, "decode", dict(one), expected, {"prompt": prompt, **method}))
    return probes


def answers_again(
    probes: Iterable[Probe], variant: Variant, models: Mapping[Role, ir.Model], runner: Runner
) -> list[Probe]:
    """The probes of answers, with what these graphs answer in the place of what the model's own code does."""
    from ..sources.source import Answered

    record = variant.generation
    assert record is not None, "there are language graphs"
    asked, found = list(probes), []
    begun, run = all_begun(((probe.inputs, probe.method["prompt"]) for probe in asked), variant, models, runner)
    for probe, at_first in zip(asked, begun):
        how = {**probe.method, "own_picks": False}
        limit = min(how["limit"], record.max_new_tokens)
        ids, scores = _answer(run, at_first, limit)
        found.append(Probe(ANSWERS, "decode", dict(probe.inputs), stored(Answered(ids, scores), limit), how))
    return found


def check_agreement(
    probes: Iterable[Probe],
    variant: Variant,
    models: Mapping[Role, ir.Model],
    runner: Runner,
    step: Progress = lambda text: None,
) -> list[Check]:
    """Compare the graphs of a variant with what the float graphs expect of each text.

    Returns:
        One check, or none where there are no such probes: its `cosine` is the agreement, its `norm_ratio` the
        perplexity over that of the float graphs.

    Raises:
        GraphError: the texts are not those of this model.
    """
    mine, record = [probe for probe in probes if probe.part == AGREEMENT], variant.generation
    if not mine or record is None:
        return []
    step(f"{AGREEMENT}: prompts")
    begun, run = all_begun(((probe.inputs, probe.method["prompt"]) for probe in mine), variant, models, runner)
    same, own, theirs = [], [], []
    for probe, at_first in zip(mine, begun):
        step(f"{AGREEMENT}: word by word")
        ids = _ids(probe, record)
        found, likely = _expected(_along(run, at_first, ids), ids)
        same.append(found == probe.expected["likeliest"])
        own.append(likely)
        theirs.append(probe.expected["own"])
    return [_check(mine[0].method, np.concatenate(same), np.concatenate(own), np.concatenate(theirs))]


def figures(check: Check, probes: Iterable[Probe]) -> dict[str, Any]:
    """What the manifest's record of the weights says of a check."""
    own = np.concatenate([probe.expected["own"] for probe in probes if probe.part == AGREEMENT])
    before = _perplexity(own)
    perplexity = {"perplexity": before * check.norm_ratio, "float_perplexity": before}
    return {"words": len(own), "agreement": check.cosine, **{key: max(1.0, x) for key, x in perplexity.items()}}


def _check(method: Mapping[str, Any], same: np.ndarray, own: np.ndarray, theirs: np.ndarray) -> Check:
    agreement, ratio = float(same.mean()), _perplexity(own) / _perplexity(theirs)
    least, wrong = method["least"], int((~same).sum())
    ok = agreement >= least and bool(np.isfinite(ratio))
    told = (
        f"{agreement:.1%} of {len(same)} words are those of the float graphs, and the perplexity of the texts is "
        f"{_perplexity(own):.4g}, not {_perplexity(theirs):.4g} (x {ratio:.4g})"
    )
    detail = told if ok else f"{told}; at least {least:.1%} must be"
    return Check(AGREEMENT, f"{method['weights']} weights", ok, agreement, ratio, float(wrong), detail=detail)


def _perplexity(own: np.ndarray) -> float:
    """Of words whose log-probabilities are `own`; a large number where one cannot be."""
    return float(np.exp(min(80.0, -own.astype(np.float64).mean())))


def _prompts(source: Source, record: GenerationRecord, encoded: Arrays) -> list[list[int]]:
    """Different ones, about one input, or about several images that were encoded."""
    proved = source.proof_prompt(*images_of(record, encoded))
    asked = [proved] if proved else source.real_prompts(_PROMPTS, record.prompt_length)
    return [list(prompt) for prompt in dict.fromkeys(map(tuple, asked or [[record.bos]]))]


def _passage(source: Source, record: GenerationRecord) -> list[int]:
    """The ids of the passage; none where a model hears, or reads no text."""
    name = source.processor.tokenizer
    if name is None or record.attention == "cross":
        return []
    return TokenizerFile(source.processor_files[name], Path(name)).tokenize(PASSAGE.read_text().strip())


def _answer(run: Run, begun: Begun, limit: int) -> tuple[list[int], np.ndarray]:
    """A greedy answer with what ends it, and its scores; see `_allowed`."""
    logits: list[np.ndarray] = []
    (said,), _, _ = go_on(run, begun, limit, scored=logits)
    record = begun.variant.generation
    assert record is not None, "an answer was begun"
    ids = said if len(said) == limit else [*said, record.eos[0]]
    return ids, _allowed(np.concatenate(logits), ids, record)


def _along(run: Run, begun: Begun, ids: list[int]) -> np.ndarray:
    """The scores of a given text; see `_allowed`."""
    record = begun.variant.generation
    assert record is not None, "an answer was begun"
    return _allowed(go_along(run, begun, ids), ids, record)


def _allowed(logits: np.ndarray, ids: list[int], record: GenerationRecord) -> np.ndarray:
    """Logits [n, V] float32 at each of n words of a text, -inf where it may not be chosen."""
    rules = Rules.of(record)
    return np.concatenate([rules.apply(logits[at : at + 1], [ids[:at]]) for at in range(len(logits))])


def _expected(scores: np.ndarray, ids: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest id at each word of a text [n] int64, and the log-probability of its own [n] float32."""
    scores = scores.astype(np.float64)
    scores -= scores.max(1, keepdims=True)
    scores -= np.log(np.exp(scores).sum(1, keepdims=True))
    likely = scores[np.arange(len(ids)), ids]
    return scores.argmax(1), np.maximum(likely, -1e3).astype(np.float32)


def _ids(probe: Probe, record: GenerationRecord) -> list[int]:
    ids, likeliest, own = (probe.expected.get(name, np.zeros(0)) for name in ("ids", "likeliest", "own"))
    fits = ids.ndim == 1 and len(ids) and ids.shape == likeliest.shape == own.shape
    kinds = ids.dtype == likeliest.dtype == np.int64 and own.dtype.kind == "f"
    inside = fits and kinds and ids.min() >= 0 and ids.max() < record.vocabulary
    if not inside or len(ids) > record.max_new_tokens:
        raise GraphError(
            "the proof's texts are not those of this model", where=AGREEMENT, fix="Export again: this proof is damaged."
        )
    return [int(i) for i in ids]
