"""Greedy generation with the graphs of a bundle, in any runtime: the generation contract of bundle/manifest.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..errors import GraphError, RequestError
from .answer import Answer as Answer
from .bundle.manifest import GenerationRecord, Role, Variant
from .choose import Rules, choose
from .images import count_of, placed, widened
from .kv_cache import KVCache


class Run(Protocol):
    """Runs the graph of a role: arrays in and out by role name, or for KV caches what `kv_cache.KVCache` takes."""

    def __call__(self, role: str, /, **inputs: np.ndarray) -> Mapping[str, np.ndarray]:
        """Run it."""
        ...


def greedy(
    run: Run,
    variant: Variant,
    encoded: Mapping[str, np.ndarray],
    prompt: Sequence[int],
    max_new_tokens: int | None = None,
    rules: Rules | None = None,
) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Answer a prompt about one encoded input with the most likely token at each step; ties go to the lowest id.

    Args:
        run: for the roles embed (not with cross-attention), prefill and decode.
        variant: of the manifest, with its generation record.
        encoded: the encoder's outputs by role: tokens [1, K, D], and kept_indices and sizes where it compresses. Of a
            bundle for several images what `images.joined` makes of those of each.
        prompt: ids, `bos` included, not padded; of such a bundle with the placeholder of each image.
        max_new_tokens: at most this many; None: as many as the KV cache holds.
        rules: which tokens may be chosen; None: those of the generation record.

    Returns:
        ids of the answer, kept_indices [K] int64, sizes [K] float32; of n images n K of both.

    Raises:
        RequestError: the prompt is too long or too short, or max_new_tokens is outside 1 to the bundle's limit.
        GraphError: logits or sizes are not finite; outputs that the contract requires are missing, or of another shape.
    """
    answers, kept_indices, sizes = greedy_batch(run, variant, encoded, [prompt], max_new_tokens, rules)
    return answers[0], kept_indices[0], sizes[0]


def greedy_batch(
    run: Run,
    variant: Variant,
    encoded: Mapping[str, np.ndarray],
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int | None = None,
    rules: Rules | None = None,
) -> tuple[list[list[int]], np.ndarray, np.ndarray]:
    """`greedy` for B prompts about B encoded inputs at once, with graphs whose batch is B.

    An answer that has ended is fed `pad` until the last one has ended; its further tokens are ignored.

    Returns:
        ids of each answer, kept_indices [B, K] int64, sizes [B, K] float32.
    """
    record = _record(variant)
    limit = limit_of(record, max_new_tokens)
    return go_on(run, begin(run, variant, encoded, prompts), limit, rules)


def go_on(
    run: Run, begun: Begun, limit: int, rules: Rules | None = None, scored: list[np.ndarray] | None = None
) -> tuple[list[list[int]], np.ndarray, np.ndarray]:
    """The second half of `greedy_batch`, which needs decode alone; `scored` receives the logits [B, V] of each step."""
    variant, record, state = begun.variant, _record(begun.variant), begun.state
    rules = rules or Rules.of(record)
    answers: list[list[int]] = [[] for _ in begun.last]
    going = np.ones(len(answers), bool)
    for step in range(limit):
        role: Role = "decode" if step else "prefill"
        scores = _scores(state["logits"], len(answers), record, role)
        if scored is not None:
            scored.append(scores)
        tokens = choose(scores, going, answers, rules, role, _of_nan(variant, role))
        going &= ~np.isin(tokens, record.eos)
        for row in np.flatnonzero(going):
            answers[row].append(int(tokens[row]))
        if not going.any() or step + 1 == limit:
            break
        state = begun.follow(run, np.where(going, tokens, record.pad), step)
    return answers, begun.kept_indices, begun.sizes


def forced(
    run: Run, variant: Variant, encoded: Mapping[str, np.ndarray], prompt: Sequence[int], text: Sequence[int]
) -> np.ndarray:
    """What the graphs expect at each word of a given text behind a prompt, all words before it given.

    Args:
        run: see `greedy`.
        variant: likewise.
        encoded: likewise.
        prompt: likewise.
        text: ids, at least one and at most as many as the KV cache holds.

    Returns:
        logits [n, V] float32, n ids of `text`.

    Raises:
        RequestError, GraphError: as `greedy`.
    """
    limit_of(_record(variant), len(text))
    return go_along(run, begin(run, variant, encoded, [prompt]), text)


def go_along(run: Run, begun: Begun, text: Sequence[int]) -> np.ndarray:
    """The second half of `forced`, which needs decode alone; `text` is as long as `forced` allows."""
    record = _record(begun.variant)
    logits = [_scores(begun.state["logits"], 1, record, "prefill")]
    for step, word in enumerate(text[:-1]):
        logits.append(_scores(begun.follow(run, np.array([word]), step)["logits"], 1, record, "decode"))
    return np.concatenate(logits)


@dataclass
class Begun:
    """B answers of which nothing is said yet.

    Attributes:
        variant: of the manifest.
        state: what prefill returned.
        caches: its keys and values, and those of each step.
        last: index of the last id of each prompt [B] int64.
        reads: inputs of decode that stay the same: token_bias [B, K] float32; of several images also image_starts.
        kept_indices: [B, K] int64.
        sizes: [B, K] float32.
    """

    variant: Variant
    state: Mapping[str, np.ndarray]
    caches: KVCache
    last: np.ndarray
    reads: dict[str, np.ndarray]
    kept_indices: np.ndarray
    sizes: np.ndarray

    def follow(self, run: Run, ids: np.ndarray, step: int) -> Mapping[str, np.ndarray]:
        """What decode returns for the id number `step` of each answer, `ids` [B] int64."""
        at = self.last + step + 1
        given = {"input_ids": ids[:, None].astype(np.int64), "write_index": at, **self.reads}
        state = run("decode", **given, **self.caches.inputs)
        self.caches.keep(state, at)
        return state


def begin(run: Run, variant: Variant, encoded: Mapping[str, np.ndarray], prompts: Sequence[Sequence[int]]) -> Begun:
    """The first half of `greedy_batch`, which needs embed and prefill alone."""
    record, places = _record(variant), {}
    if record.images:
        apart = [placed(prompt, record, count_of(record, encoded)) for prompt in prompts]
        prompts = [words for words, _ in apart]
        places = {"image_starts": np.array([starts for _, starts in apart], np.int64)}
    input_ids = np.array([_padded(prompt, record) for prompt in prompts], np.int64)
    kept_indices, sizes = _kept(variant, record, encoded)
    token_bias = np.log(sizes) if variant.tells_sizes else np.zeros_like(sizes)
    last = np.array([len(prompt) - 1 for prompt in prompts], np.int64)
    if record.attention == "cross":
        read, same = {"input_ids": input_ids, "tokens": encoded["tokens"]}, {"token_bias": token_bias}
    else:
        last += kept_indices.shape[1]
        tokens = widened(encoded["tokens"], record)
        embeds = run("embed", input_ids=input_ids, tokens=tokens, **places)["inputs_embeds"]
        read = {"inputs_embeds": embeds, "kept_indices": widened(kept_indices, record)}
        if record.by_position:
            read["assignment"] = _assignment(variant, record, encoded)
        same = {"token_bias": widened(token_bias, record), **places}
    state = run("prefill", **read, **same, last_index=last)
    return Begun(variant, state, KVCache(state, places.get("image_starts")), last, same, kept_indices, sizes)


def _record(variant: Variant) -> GenerationRecord:
    if variant.generation is None:
        raise RequestError("the bundle has no language graphs", fix="Built-in models have them: --parts all.")
    return variant.generation


def limit_of(record: GenerationRecord, asked: int | None) -> int:
    """How many tokens are generated at most; RequestError where `asked` is outside 1 to the bundle's limit."""
    if asked is None:
        return record.max_new_tokens
    if isinstance(asked, bool) or not hasattr(asked, "__index__"):
        raise RequestError(f"max_new_tokens {asked!r} is not a whole number")
    if not 1 <= asked <= record.max_new_tokens:
        raise RequestError(
            f"max_new_tokens {asked} is outside 1..{record.max_new_tokens}",
            fix="The KV cache has a fixed size: ask for fewer tokens, or export with a larger --answer-length.",
        )
    return asked


def padded(prompt: Sequence[int], length: int, pad: int, vocabulary: int) -> list[int]:
    """The ids of a prompt, filled up to `length` on the right.

    Raises:
        RequestError: there are none, too many, or one outside the vocabulary.
    """
    outside = [i for i in prompt if not 0 <= i < vocabulary]
    if outside:
        raise RequestError(f"prompt id {outside[0]} is outside the vocabulary of {vocabulary}")
    if len(prompt) > length:
        raise RequestError(
            f"the prompt has {len(prompt)} ids, and the graphs take at most {length}",
            fix="Ask a shorter question, or export with a larger --prompt-length.",
        )
    if not prompt:
        raise RequestError("the prompt has 0 ids", fix="Begin it with `bos`.")
    return [*prompt, *[pad] * (length - len(prompt))]


def _padded(prompt: Sequence[int], record: GenerationRecord) -> list[int]:
    """The ids of a prompt, padded to P."""
    ids = padded(prompt, record.prompt_length, record.pad, record.vocabulary)
    if not record.images and len(prompt) < record.image_span[0]:
        raise RequestError(
            f"the prompt has {len(prompt)} ids, and {record.image_span[0]} stand before the image",
            fix="Begin the prompt with `bos` and the ids that the model expects before the image.",
        )
    return ids


def _kept(
    variant: Variant, record: GenerationRecord, encoded: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """kept_indices [B, K] int64 and sizes [B, K] float32: the encoder's outputs, or all tokens without compression.

    Of n images they are [B, n K].
    """
    kept, images = record.image_span[1], count_of(record, encoded) if record.images else 1
    found = [name for name in ("kept_indices", "sizes") if name in encoded]
    if not found and kept == record.tokens_in:
        rows = len(encoded["tokens"])
        return np.tile(np.arange(kept, dtype=np.int64), (rows, images)), np.ones((rows, images * kept), np.float32)
    if len(found) < 2:
        missing = "sizes" if "kept_indices" in encoded else "kept_indices"
        raise GraphError(f"the encoder of {variant.name} has no output {missing}", fix="Export the bundle again.")
    for name in found:
        shape = encoded[name].shape
        if shape != (len(encoded["tokens"]), images * kept):
            raise GraphError(
                f"{name} is {list(shape)}, and image_span keeps {kept} tokens of each input",
                where=f"output {name} of the encoder of {variant.name}",
                fix="Export the bundle again.",
            )
    sizes = np.asarray(encoded["sizes"], np.float32)
    bad = ~(np.isfinite(sizes) & (sizes > 0))
    if bad.any():
        row, slot = map(int, np.argwhere(bad)[0])
        raise GraphError(
            f"sizes[{slot}] is {sizes[row, slot]}, and every slot stands for more than 0 tokens",
            where=f"output sizes of the encoder of {variant.name}",
            fix="The compressor is wrong on this input"
            + (", or float16 overflowed: try --precision fp32." if _half(variant, "encoder") else ": report it."),
        )
    return encoded["kept_indices"], sizes


def _assignment(variant: Variant, record: GenerationRecord, encoded: Mapping[str, np.ndarray]) -> np.ndarray:
    """assignment [B, N] int64, of the encoder."""
    rows, tokens = len(encoded["tokens"]), record.tokens_in
    found = encoded.get("assignment")
    if found is None or found.shape != (rows, tokens):
        raise GraphError(
            f"prefill reads an assignment [{rows}, {tokens}], and "
            + ("there is none" if found is None else f"it is {list(found.shape)}"),
            where=f"output assignment of the encoder of {variant.name}",
            fix="Export the bundle again.",
        )
    return found


def _scores(logits: np.ndarray, answers: int, record: GenerationRecord, role: Role) -> np.ndarray:
    """The logits [B, V] float32 of B answers."""
    scores = np.asarray(logits, np.float32)
    if scores.size != answers * record.vocabulary:
        raise GraphError(
            f"the logits are {list(scores.shape)}, and the vocabulary has {record.vocabulary} ids",
            where=f"output logits of {role}",
            fix="Export the bundle again.",
        )
    return scores.reshape(answers, record.vocabulary)


def _half(variant: Variant, role: Role) -> bool:
    return role not in variant.graphs or variant.graphs[role].precision != "fp32"


def _of_nan(variant: Variant, role: Role) -> str:
    """What to do about logits that are NaN."""
    if _half(variant, role):
        return "float16 overflowed, most likely: export with --precision fp32, or see which sums `verify` names."
    return "A bundle in fp32 cannot overflow there: check the input and the weights, and run `tokexport verify`."
