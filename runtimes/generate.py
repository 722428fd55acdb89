"""Greedy generation over the graphs of a bundle, whatever runs them: the generation contract of bundle.py as a loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..errors import GraphError, RequestError
from .bundle import GenerationRecord, Variant


class Run(Protocol):
    """Runs the graph of a role: arrays in and out by role name."""

    def __call__(self, role: str, /, **inputs: np.ndarray) -> Mapping[str, np.ndarray]:
        """Run it."""
        ...


@dataclass(frozen=True)
class Answer:
    """What `Session.generate` returns.

    Attributes:
        text: the answer; empty where the bundle has no text processor.
        ids: of the answer, without prompt and `eos`.
        kept_indices: [K] int64, the positions the visual slots inherit.
        sizes: [K] float32, how many input tokens each slot stands for.
    """

    text: str
    ids: list[int]
    kept_indices: np.ndarray
    sizes: np.ndarray

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        arrays = {"kept_indices": self.kept_indices.tolist(), "sizes": self.sizes.tolist()}
        return {"text": self.text, "ids": self.ids, **arrays}


def greedy(
    run: Run,
    variant: Variant,
    encoded: Mapping[str, np.ndarray],
    prompt: Sequence[int],
    max_new_tokens: int | None = None,
) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Answer a prompt about one encoded input, taking the most likely token each time; ties go to the lowest id.

    Args:
        run: for the roles embed, prefill and decode.
        variant: of the manifest, with its generation record.
        encoded: the encoder's outputs by role: tokens [1, K, D], and kept_indices and sizes where it compresses.
        prompt: ids, `bos` included, not padded.
        max_new_tokens: at most this many; None: as many as the KV cache holds.

    Returns:
        ids of the answer, kept_indices [K] int64, sizes [K] float32.

    Raises:
        RequestError: the prompt is too long or too short, or max_new_tokens is outside 1 to the bundle's limit.
        GraphError: logits or sizes are not finite, or outputs that the contract promises are missing.
    """
    record = variant.generation
    if record is None:
        raise RequestError("the bundle has no language graphs", fix="Export it with --parts all.")
    limit = _limit(record, max_new_tokens)
    input_ids = _padded(prompt, record)
    kept_indices, sizes = _kept(variant, record, encoded)
    token_bias = np.log(sizes) if _has_size_bias(variant) else np.zeros_like(sizes)
    last = len(prompt) + record.image_span[1] - 1

    embeds = run("embed", input_ids=input_ids, tokens=encoded["tokens"])["inputs_embeds"]
    state = run(
        "prefill",
        inputs_embeds=embeds,
        kept_indices=kept_indices,
        token_bias=token_bias,
        last_index=np.array([last], np.int64),
    )
    answer: list[int] = []
    while True:
        token = _choose(state["logits"], "decode" if answer else "prefill", len(answer))
        if token in record.eos:
            break
        answer.append(token)
        if len(answer) == limit:
            break
        past = {name.replace("present_", "past_", 1): v for name, v in state.items() if name.startswith("present_")}
        state = run(
            "decode",
            input_ids=np.array([[token]], np.int64),
            write_index=np.array([last + len(answer)], np.int64),
            token_bias=token_bias,
            **past,
        )
    return answer, kept_indices[0], sizes[0]


def _limit(record: GenerationRecord, asked: int | None) -> int:
    if asked is None:
        return record.max_new_tokens
    if isinstance(asked, bool) or not hasattr(asked, "__index__"):
        raise RequestError(f"max_new_tokens {asked!r} is not a whole number")
    if not 1 <= asked <= record.max_new_tokens:
        raise RequestError(
            f"max_new_tokens {asked} is outside 1..{record.max_new_tokens}",
            fix="The KV cache has a fixed size: ask for fewer tokens, or export with room for more.",
        )
    return asked


def _padded(prompt: Sequence[int], record: GenerationRecord) -> np.ndarray:
    """[1, P] int64."""
    outside = [i for i in prompt if not 0 <= i < record.vocabulary]
    if outside:
        raise RequestError(f"prompt id {outside[0]} is outside the vocabulary of {record.vocabulary}")
    if len(prompt) > record.prompt_length:
        raise RequestError(
            f"the prompt has {len(prompt)} ids, and the graphs take at most {record.prompt_length}",
            fix="Ask a shorter question, or export with a longer prompt.",
        )
    if len(prompt) < max(1, record.image_span[0]):
        raise RequestError(
            f"the prompt has {len(prompt)} ids, and {record.image_span[0]} stand before the image",
            fix="Begin the prompt with `bos` and what the model expects before the image.",
        )
    return np.array([[*prompt, *[record.pad] * (record.prompt_length - len(prompt))]], np.int64)


def _kept(
    variant: Variant, record: GenerationRecord, encoded: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """kept_indices [1, K] int64 and sizes [1, K] float32: the encoder's, or all tokens where it keeps them all."""
    kept = record.image_span[1]
    found = [name for name in ("kept_indices", "sizes") if name in encoded]
    if not found and kept == record.tokens_in:
        return np.arange(kept, dtype=np.int64)[None], np.ones((1, kept), np.float32)
    if len(found) < 2:
        lacking = "sizes" if "kept_indices" in encoded else "kept_indices"
        raise GraphError(f"the encoder of {variant.name} has no output {lacking}", fix="Export the bundle again.")
    sizes = np.asarray(encoded["sizes"], np.float32)
    bad = ~(np.isfinite(sizes) & (sizes > 0))
    if bad.any():
        slot = int(np.argmax(bad[0]))
        raise GraphError(
            f"sizes[{slot}] is {sizes[0, slot]}, and every slot stands for more than 0 tokens",
            where=f"output sizes of the encoder of {variant.name}",
            fix="The compressor is wrong on this input, or float16 overflowed: try --precision fp32.",
        )
    return encoded["kept_indices"], sizes


def _has_size_bias(variant: Variant) -> bool:
    # What merges inside the decoder carries its sizes inside the graph.
    return any(record.size_bias for record in variant.compression if record.seam.graph == "encoder")


def _choose(logits: np.ndarray, role: str, step: int) -> int:
    row = np.asarray(logits, np.float32).reshape(-1)
    if np.isnan(row).any():
        raise GraphError(
            f"{int(np.isnan(row).sum())} of {row.size} logits are NaN at token {step}",
            where=f"output logits of {role}",
            fix="float16 overflowed, most likely: export with --precision fp32, or see which sums `verify` names.",
        )
    return int(row.argmax())
