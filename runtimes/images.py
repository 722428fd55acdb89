"""Several images in one prompt: where each stands, and what the encoder gave of them as the language graphs take it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..errors import RequestError
from .bundle.manifest import GenerationRecord

# What generation reads of the encoder's outputs.
_READ = ("tokens", "kept_indices", "sizes")


def joined(encoded: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """What the encoder gave of n images, in their order.

    Args:
        encoded: its outputs by role of each, tokens [B, K, D], kept_indices and sizes [B, K].

    Returns:
        Those that generation reads, [B, n K, D] and [B, n K].
    """
    first = encoded[0]
    return {name: np.concatenate([one[name] for one in encoded], 1) for name in _READ if name in first}


def in_one(encoded: Sequence[Mapping[str, np.ndarray]], tokens: int) -> dict[str, np.ndarray]:
    """What an encoder that reads frame by frame gave of a whole video of n frames.

    Args:
        encoded: its outputs by role of each frame, in their order.
        tokens: N, of each.

    Returns:
        tokens [B, n K, D], sizes [B, n K], kept_indices [B, n K] among n N tokens, assignment [B, n N] to n K slots.
    """
    keep, made = encoded[0]["tokens"].shape[1], joined(encoded)
    if "kept_indices" in made:
        moved = [one["kept_indices"] + tokens * number for number, one in enumerate(encoded)]
        made["kept_indices"] = np.concatenate(moved, 1)
    if "assignment" in encoded[0]:
        slots = [one["assignment"] for one in encoded]
        moved = [np.where(one < 0, one, one + keep * number) for number, one in enumerate(slots)]
        made["assignment"] = np.concatenate(moved, 1)
    return made


def widened(array: np.ndarray, record: GenerationRecord) -> np.ndarray:
    """What is there of n images [B, n K, ...], for as many as the graphs have room for [B, I K, ...]: then zeros."""
    missing = (record.images or 1) * record.image_span[1] - array.shape[1]
    if missing <= 0:
        return array
    return np.concatenate([array, np.zeros((len(array), missing, *array.shape[2:]), array.dtype)], 1)


def narrowed(array: np.ndarray, record: GenerationRecord | None, count: int) -> np.ndarray:
    """What is of `count` images of an array for as many as the graphs have room for, [B, I n, ...]."""
    most = record.images if record and record.images else 0
    return array[:, : array.shape[1] // most * count] if most else array


def count_of(record: GenerationRecord, encoded: Mapping[str, np.ndarray]) -> int:
    """n of what `joined` returned."""
    return int(encoded["tokens"].shape[1]) // record.image_span[1]


def placed(prompt: Sequence[int], record: GenerationRecord, count: int) -> tuple[list[int], list[int]]:
    """Take the places of images out of a prompt.

    Args:
        prompt: ids, with `placeholder` of the record once for each image.
        record: of a bundle for several images.
        count: of images.

    Returns:
        The other ids, and where each of I images begins in the sequence; those that are not there, behind its end.

    Raises:
        RequestError: there are other images than places, or none, or too many.
    """
    check_count(record, count)
    places = [at for at, i in enumerate(prompt) if i == record.placeholder]
    if len(places) != count:
        raise RequestError(
            f"the prompt has {len(places)} places of images (id {record.placeholder}), and the images are {count}",
            fix=f"Put the id {record.placeholder} into it once for each image, where it stands.",
        )
    keep = record.image_span[1]
    end = record.prompt_length + (record.images or 1) * keep + record.max_new_tokens
    starts = [at + number * (keep - 1) for number, at in enumerate(places)]
    starts += [end] * ((record.images or 1) - count)
    return [i for i in prompt if i != record.placeholder], starts


def check_count(record: GenerationRecord, count: int, *, video: bool = False) -> None:
    """Raise `RequestError` where a bundle takes not so many images, videos or sounds in a prompt.

    Args:
        record: of the bundle.
        count: of them.
        video: whether it is asked about videos, whose frames may be the images of the record.
    """
    if count > 1 and video:
        raise RequestError(f"{count} videos are given, and the bundle takes one in a prompt", fix="Ask about each.")
    if count < 1:
        raise RequestError("no image, video or sound is given", fix="Give one.")
    if count > 1 and not record.images:
        raise RequestError(
            f"{count} inputs are given, and the bundle takes one in a prompt",
            fix=f"Ask about each. Or export the model with --images {count}, if it is a vision-language checkpoint.",
        )
    if count > (record.images or 1):
        raise RequestError(
            f"{count} images are given, and the bundle takes at most {record.images} in a prompt",
            fix=f"Export it with --images {count}, or give fewer.",
        )
