"""Writes down what is said in a sound of any length, window by window."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..errors import RequestError
from . import speech
from .answer import Answer, Heard, Segment, repeated
from .bundle.manifest import GenerationRecord, SpeechRecord
from .choose import Rules
from .generate import Run, greedy, limit_of
from .media.audio import check_waveform, open_sound
from .media.encoder_input import is_prepared, not_a_sound
from .media.recording import LONGEST_SECONDS, Piece, is_silent, pieces
from .windows import Window, shortest, windows

if TYPE_CHECKING:
    from .bundle.manifest import Variant
    from .bundle.reader import Bundle
    from .text import Text

# Told the seconds that were heard, and how many there are.
Listening = Callable[[float, float], None]

# Languages that are written without spaces, so that pieces are joined without one.
_UNSPACED = frozenset({"zh", "yue", "ja", "th", "lo", "my", "km", "bo"})
_SPANS_SHOWN = 4


class Session(Protocol):
    """What is needed of a `session.Session`."""

    bundle: Bundle
    variant: Variant
    reopen: Callable[[str], Any] | None

    @property
    def words(self) -> Text | None:
        """The text processor."""
        ...

    def text_processor(self) -> Text:
        """The text processor; RequestError where there is none."""
        ...

    def ids(self, prompt: str | Sequence[int]) -> list[int]:
        """The ids of a prompt."""
        ...

    def encode(self, media: Any) -> dict[str, np.ndarray]:
        """Run the encoder."""
        ...

    def steps(self) -> Run:
        """What generation runs graphs with."""
        ...

    def of_variant(self, name: str) -> Session:
        """A session like it for another variant."""
        ...


def transcribe(
    session: Session,
    media: Any,
    prompt: str | Sequence[int],
    max_new_tokens: int | None,
    asked: speech.Asked,
    listening: Listening | None = None,
) -> Answer:
    """See `Session.generate`, of a bundle with a record of speech."""
    record = session.variant.generation
    assert record is not None and record.speech is not None
    limit = limit_of(record, max_new_tokens)
    if not isinstance(prompt, str) and asked.names():
        name = asked.names()[0]
        raise RequestError(f"ids are a whole prompt, so {name} has no use beside them", fix=f"Leave {name} out.")
    if isinstance(prompt, str) and prompt.strip() and asked.timestamps:
        raise RequestError(
            "a transcript that begins with given words has no times", fix="Leave the prompt or timestamps out."
        )
    reader = _Reader(session, record, record.speech, prompt, limit, asked)
    # The limit and what was asked are checked before the first byte is read.
    found = windows(session.bundle.manifest, session.variant)
    if session.reopen is None:
        found = [window for window in found if window.variant == session.variant.name]
    if isinstance(media, np.ndarray) and is_prepared(media, found[0].record):
        own = next(window.record for window in found if window.variant == session.variant.name)
        reader.read(media, 0.0, own.samples / own.sample_rate, session, first=True)
        return reader.answer()
    longest = max((window for window in found if window.safe), key=lambda window: window.room, default=found[-1])
    rate = longest.record.sample_rate
    with _opened(media, rate) as (blocks, seconds):
        for piece in pieces(blocks, longest.room, rate):
            reader.hear(piece, shortest(found, len(piece.samples)), first=piece.start == 0, where=_name(media))
            if listening and not (piece.start == 0 and piece.last):
                listening(piece.end / rate, max(seconds, piece.end / rate))
    return reader.answer()


class _Reader:
    """Reads one piece after the other, and keeps what was said."""

    def __init__(
        self,
        session: Session,
        record: GenerationRecord,
        spoken: SpeechRecord,
        prompt: str | Sequence[int],
        limit: int,
        asked: speech.Asked,
    ) -> None:
        self._session, self._speech, self._limit = session, spoken, limit
        self._asked, self._rules = asked, Rules.of(record, timestamps=asked.timestamps)
        self._whole, self._words = None, list[int]()
        if not isinstance(prompt, str):
            self._whole = session.ids(prompt)
        elif prompt.strip():
            # A word inside a text has its space with it.
            self._words = session.text_processor().tokenize(f" {prompt.strip()}")
        self._texts: list[str] = []
        self._ids: list[int] = []
        self._kept: list[np.ndarray] = []
        self._sizes: list[np.ndarray] = []
        self._segments: list[Segment] = []
        self._heard: list[Heard] = []
        self._silent: list[tuple[float, float]] = []
        self._cut_off: list[tuple[float, float]] = []
        self._repeats: list[str] = []

    def hear(self, piece: Piece, window: Window, *, first: bool, where: str) -> None:
        """Read a piece of a sound with the encoder of a window."""
        rate = window.record.sample_rate
        span = (piece.start / rate, piece.end / rate)
        try:
            check_waveform(piece.samples)
            self.read(piece.samples, *span, self._session.of_variant(window.variant), first=first)
        except RequestError as error:
            # A caller may read a whole folder, so the error must name the file.
            raise RequestError(error.what, where=error.where or where, fix=error.fix) from None
        if is_silent(piece.samples, rate):
            self._silent.append(span)

    def read(self, media: np.ndarray, start: float, end: float, session: Session, *, first: bool) -> None:
        """Read the encoder's input, or samples, that stand for the sound between two times in seconds."""
        encoded, run = session.encode(media), session.steps()
        asked = self._asked
        if self._whole is None and self._speech.languages and asked.language is None:
            asked = speech.Asked(speech.language(run, session.variant, encoded), asked.task, asked.timestamps)
            # The rest of a sound is in the language of its beginning.
            self._asked = asked
        ids = self._whole
        if ids is None:
            ids = [*speech.prompt(self._speech, asked), *(self._words if first else [])]
        said, kept, sizes = greedy(run, session.variant, encoded, ids, self._limit, self._rules)
        spoken = speech.text_ids(said, self._speech)
        self._heard.append(Heard(round(start, 3), round(end, 3), session.variant.name, len(kept)))
        self._ids += said
        self._kept.append(kept)
        self._sizes.append(sizes)
        self._texts.append(self._text(spoken))
        if asked.timestamps:
            self._segments += speech.segments(said, self._speech, self._text, start, end)
        if len(said) >= self._limit:
            self._cut_off.append((start, end))
        again = repeated(spoken)
        if again:
            self._repeats.append(f"{again[1]} times {self._text(again[0]).strip() or again[0]!r} {_when(start, end)}")

    def answer(self) -> Answer:
        """All that was said."""
        return Answer(
            self._joined(),
            self._ids,
            np.concatenate(self._kept),
            np.concatenate(self._sizes),
            finished=not self._cut_off,
            notes=tuple(self._notes()),
            language=self._asked.language,
            segments=self._segments if self._asked.timestamps else None,
            pieces=tuple(self._heard),
        )

    def _joined(self) -> str:
        texts = [text for text in self._texts if text.strip()]
        # Ids of whole words bring their spaces with them.
        spaced = any(text[0].isspace() for text in texts) or self._asked.language in _UNSPACED
        return ("" if spaced else " ").join(texts).strip()

    def _text(self, ids: list[int]) -> str:
        return self._session.words.detokenize(ids) if self._session.words else ""

    def _notes(self) -> Iterator[str]:
        if self._cut_off:
            yield f"the limit of {self._limit} tokens cut the transcript off {_shown(self._cut_off)}"
        if self._repeats:
            more = len(self._repeats) - _SPANS_SHOWN
            shown = "; ".join(self._repeats[:_SPANS_SHOWN]) + (f"; and {more} more" if more > 0 else "")
            yield f"the transcript repeats itself, as where a model is lost: {shown}"
        if self._silent:
            yield f"the sound is silent {_shown(self._silent)}: what is written there was likely not said"


@contextlib.contextmanager
def _opened(media: Any, sample_rate: int) -> Iterator[tuple[Iterator[np.ndarray], float]]:
    """The samples of a file or an array, block by block, and how many seconds there should be."""
    if isinstance(media, (str, Path)):
        with open_sound(media, sample_rate, LONGEST_SECONDS * sample_rate, reader="tokexport reads") as sound:
            yield sound.blocks, sound.seconds
        return
    if not isinstance(media, np.ndarray):
        raise not_a_sound(media, sample_rate)
    check_waveform(media)
    step = 30 * sample_rate
    yield (media[at : at + step] for at in range(0, len(media), step)), len(media) / sample_rate


def _name(media: Any) -> str:
    return str(media) if isinstance(media, (str, Path)) else ""


def _when(start: float, end: float) -> str:
    return f"between {_clock(start)} and {_clock(end)}"


def _shown(spans: list[tuple[float, float]]) -> str:
    """When, of spans in order; those that touch are one."""
    merged: list[tuple[float, float]] = []
    for start, end in spans:
        if merged and merged[-1][1] >= start:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    more = len(merged) - _SPANS_SHOWN
    shown = ", ".join(_when(*span) for span in merged[:_SPANS_SHOWN])
    return f"{shown}, and {more} times more" if more > 0 else shown


def _clock(seconds: float) -> str:
    """Such as 1:02:03.5, or 2:03.5."""
    minutes, rest = divmod(round(seconds, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"
