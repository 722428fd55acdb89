"""How a recogniser is told what to write: its prompt by language, task and times, and the language it hears."""

from __future__ import annotations

import locale
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import GraphError, RequestError, nearest
from .answer import Segment
from .bundle.manifest import GenerationRecord, SpeechRecord, Variant
from .choose import Rules
from .generate import Run, greedy


@dataclass(frozen=True)
class Asked:
    """What was asked of a recogniser.

    Attributes:
        language: code; None: the one that the model hears.
        task: ``transcribe`` or ``translate``; None: the first of these that the model has.
        timestamps: whether times are wanted.
    """

    language: str | None = None
    task: str | None = None
    timestamps: bool = False

    def names(self) -> list[str]:
        """What was asked for."""
        return [name for name in ("language", "task", "timestamps") if getattr(self, name)]


def check(asked: Asked, record: GenerationRecord | None, where: str) -> Asked:
    """What was asked, in the words of the record.

    Args:
        asked: any words.
        record: of the bundle.
        where: the bundle, for messages.

    Raises:
        RequestError: the model lacks it.
    """
    speech = record.speech if record else None
    if speech is None:
        for name in asked.names():
            raise RequestError(
                f"{name} is for recognisers of speech, and this model is none that takes it",
                where=where,
                fix=f"Leave {name} (--{name}) out.",
            )
        return asked
    if asked.timestamps and (speech.timestamps is None or speech.no_timestamps is None):
        raise RequestError("the model writes no times", where=where, fix="Leave timestamps (--timestamps) out.")
    return Asked(
        _known("language", asked.language, speech.languages, where),
        _known("task", asked.task, speech.tasks, where),
        asked.timestamps,
    )


def prompt(speech: SpeechRecord, asked: Asked) -> list[int]:
    """The ids that a transcript begins with, for what `check` returned; its language is set where the model has any."""
    ids = [speech.start]
    if speech.languages:
        assert asked.language is not None, "asked for or heard"
        ids.append(speech.languages[asked.language])
    if speech.tasks:
        ids.append(speech.tasks[asked.task or ("transcribe" if "transcribe" in speech.tasks else min(speech.tasks))])
    if speech.no_timestamps is not None and not asked.timestamps:
        ids.append(speech.no_timestamps)
    return ids


def language(run: Run, variant: Variant, encoded: Mapping[str, np.ndarray]) -> str:
    """The code of the language that the model hears: the likeliest id of a language behind `start`.

    Args:
        run: see `greedy`.
        variant: with a speech record that has languages.
        encoded: see `greedy`.

    Raises:
        GraphError: logits are NaN; see `greedy`.
    """
    assert variant.generation is not None and variant.generation.speech is not None
    speech = variant.generation.speech
    codes = {i: code for code, i in speech.languages.items()}
    ids, _, _ = greedy(run, variant, encoded, [speech.start], 1, Rules(only=tuple(codes)))
    if not ids:
        raise GraphError("the id of a language is one that ends an answer", fix="Export the bundle again.")
    return codes[ids[0]]


def text_ids(ids: Sequence[int], speech: SpeechRecord) -> list[int]:
    """The ids without those of times."""
    return [i for i in ids if speech.timestamps is None or i < speech.timestamps]


def segments(
    ids: Sequence[int], speech: SpeechRecord, text: Callable[[list[int]], str], start: float, end: float
) -> list[Segment]:
    """What was said between the times of a transcript.

    Args:
        ids: of the answer.
        speech: of a model that writes times.
        text: of ids.
        start: when the piece begins, in seconds; its times count from it.
        end: when it ends: no segment is longer, and one that is left open ends with it.
    """
    assert speech.timestamps is not None
    found, opened, words = [], start, list[int]()
    for i in ids:
        if i < speech.timestamps:
            words.append(i)
            continue
        at = min(start + (i - speech.timestamps) * speech.timestamp_seconds, end)
        if words:
            found.append(Segment(round(opened, 3), round(at, 3), text(words).strip()))
            words = []
        opened = at
    if words:
        found.append(Segment(round(opened, 3), round(end, 3), text(words).strip()))
    return found


def _known(name: str, value: str | None, known: Mapping[str, int], where: str) -> str | None:
    if value is None:
        return None
    if not known:
        raise RequestError(
            f"the model takes no {name}: it has one, and no id for it", where=where, fix=f"Leave {name} (--{name}) out."
        )
    codes = {code.lower(): code for code in known}
    if str(value).lower() in codes:
        return codes[str(value).lower()]
    fix = nearest(value, known, kind=f"{name}s")
    if name == "language":
        code = _code(str(value))
        fix = (
            f"{f'Did you mean {code}? ' if code in known else ''}Known languages, by code: {', '.join(sorted(known))}."
        )
    raise RequestError(f"the model lacks the {name} {value!r}", where=where, fix=fix)


def _code(name: str) -> str:
    """The code of a language by its English name, where the standard library knows it; else empty."""
    # Names are not near their codes by their letters: "german" is nearer to "en" than to "de".
    return locale.locale_alias.get(name.lower(), "").partition("_")[0]
