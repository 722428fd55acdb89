"""The interface of every runtime: `run`, `encode` and `generate` with the graphs of a bundle, inputs checked."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import GraphError, RequestError, nearest
from .answer import Answer, repeated
from .bundle.manifest import GraphRecord, LogMelRecord, Preprocess, TensorRecord, VideoRecord
from .bundle.reader import Bundle
from .classes import labels_of
from .examples import question
from .generate import Run, greedy, limit_of, padded
from .images import check_count, in_one, joined
from .media.encoder_input import encoder_input
from .media.log_mel import silence
from .media.video import apart
from .speech import Asked, check
from .text import Text, text_of
from .tokenizer_file import TokenizerFile
from .transcribe import Listening, transcribe

if TYPE_CHECKING:
    from .media.encoder_input import Media

# Of a sound whose end is worth a note, in seconds.
_SILENCE = 0.1


class Session(ABC):
    """A bundle that is ready to run. A runtime implements `execute`; everything else is common to all.

    Args:
        bundle: opened.
        variant: name of one of its variants; None: the first.
    """

    def __init__(self, bundle: Bundle, *, variant: str | None = None) -> None:
        self.bundle = bundle
        self.variant = bundle.variant(variant)
        # Opens another variant of the bundle like this one, where none was asked for by name.
        self.reopen: Callable[[str], Session] | None = None
        self._others: dict[str, Session] = {}

    @abstractmethod
    def execute(self, role: str, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run a graph on checked inputs; input and output names are those of the graph."""

    def run(self, role: str, /, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        """Run one graph.

        Args:
            role: encoder, embed, prefill, decode or text.
            inputs: arrays by role name, with exactly the dtype and shape of the manifest.

        Returns:
            Arrays by role name.

        Raises:
            RequestError: the graph is not in the bundle, or an input is missing, unknown, or of another dtype or shape.
            GraphError: it fails, or an output has another dtype or shape than the manifest says.
            BundleError: a file that it is read from is not the one that was opened.
        """
        record = self.bundle.graph(role, self.variant.name)
        feeds = {record.inputs[name].name: array for name, array in checked(role, record, inputs).items()}
        results = self.execute(role, feeds)
        return checked_outputs(role, record, results)

    def steps(self) -> Run:
        """The function that generation runs graphs with: `run`, or a runtime's own that keeps KV caches in place."""
        return self.run

    def notes(self) -> list[str]:
        """Remarks on how the graphs that were run so far were run, for readers of results or times."""
        return []

    def of_variant(self, name: str) -> Session:
        """This session, or one like it for another variant of the bundle; the same one each time."""
        if name == self.variant.name:
            return self
        if name not in self._others:
            assert self.reopen is not None, "`load` sets it"
            self._others[name] = self.reopen(name)
        return self._others[name]

    def all_notes(self) -> list[str]:
        """`notes` of this session and of those that it opened for other variants, each once."""
        return list(dict.fromkeys(note for one in (self, *self._others.values()) for note in one.notes()))

    @property
    def preprocess(self) -> Preprocess | None:
        """How an image, a video or a sound becomes the encoder's input; None: the bundle does not say."""
        return self.bundle.manifest.preprocess_of(self.variant)

    @property
    def reads_text(self) -> bool:
        """Whether the kept tokens depend on the question, so that `encode` needs the prompt."""
        return "text" in self.variant.graphs

    def encode(
        self, media: Media, prompt: str | Sequence[int] | None = None, **extra: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Run the encoder on an image, a video, a sound, or the encoder's own input as an array.

        Args:
            media: a file; a Pillow image or 8-bit RGB [height, width, 3]; for a video also a folder of pictures or
                8-bit RGB [frames, height, width, 3]; a waveform, float32 [samples] at the sample rate of the bundle's
                record; or the encoder's own input (pixel_values [B, 3, H, W] or [B, T, 3, H, W], or input_features
                [B, mels, frames], float32).
            prompt: the question, as for `generate`, where the session `reads_text`.
            extra: further encoder inputs by role name, such as ``text`` [B, L, D] where the bundle has no graph for it.

        Returns:
            tokens [B, K, D], and kept_indices, sizes, assignment where the bundle has them; of an image tower alone
            also embedding [B, E] or logits [B, classes]. Of a video that is read frame by frame those of all frames.

        Raises:
            RequestError: a bad image or sound; a prompt that is missing, or that this encoder does not read.
        """
        encoded = [self.run("encoder", **inputs) for inputs in self.encoder_inputs(media, prompt, **extra)]
        return encoded[0] if len(encoded) == 1 else in_one(encoded, self.variant.compression[0].tokens_in)

    def encoder_inputs(
        self, media: Media, prompt: str | Sequence[int] | None = None, **extra: np.ndarray
    ) -> list[dict[str, np.ndarray]]:
        """What `encode` runs the encoder on, by role name; of a video that it reads frame by frame, for each of these.

        Arguments and errors are those of `encode`.
        """
        if self.reads_text and "text" not in extra:
            extra["text"] = self._text(prompt)
        elif prompt is not None:
            why = "the text itself is passed" if self.reads_text else "this encoder does not read the question"
            raise RequestError(f"{why}, so the prompt has no use here", fix="Leave the prompt out.")
        inputs = self.bundle.graph("encoder", self.variant.name).inputs
        main = next(name for name in inputs if name not in extra)
        return [{main: part, **extra} for part in self._parts(media, main)]

    def _parts(self, media: Media, main: str) -> list[np.ndarray]:
        """The input `main` of the encoder; of a video that it reads frame by frame, that of each."""
        shape = self.bundle.graph("encoder", self.variant.name).inputs[main].shape
        return apart(encoder_input(media, self.preprocess, self.bundle.path), self.preprocess, shape)

    def generate(
        self,
        media: Media | list[Media] | tuple[Media, ...],
        prompt: str | Sequence[int] = "",
        max_new_tokens: int | None = None,
        *,
        language: str | None = None,
        task: str | None = None,
        timestamps: bool = False,
        listening: Listening | None = None,
    ) -> Answer:
        """Answer a prompt about an image, a video or a sound, or transcribe a sound, greedily.

        Where the manifest has a record of speech, a sound may have any length up to twelve hours: it is read piece by
        piece, each by the shortest window of the bundle that holds it, unless the session has a named variant.

        Args:
            media: see `encode`; a list of images, in their order, where the bundle was exported for several: as many as
                that, or fewer.
            prompt: text, or ids with `bos` where the bundle has no text processor; for a recogniser, words that the
                transcript begins with, or the ids of its whole prompt. Ids for a bundle of several images hold the
                `placeholder` of its generation record once for each.
            max_new_tokens: at most this many, for each piece of a sound; None: the bundle's own limit.
            language: of a recogniser with several: a code, such as ``en``; None: the one that it hears.
            task: of a recogniser with several: ``transcribe`` or ``translate``.
            timestamps: whether the transcript is wanted in segments with times.
            listening: told the seconds that were read and those there are, behind each piece of a long sound.

        Raises:
            RequestError: no language graphs, a prompt that is too long, an unknown word, a bad image or sound, more
                images than the bundle takes; a language, task or times that the model lacks.
            GraphError: the graphs return NaN.
        """
        if self.variant.generation is None:
            raise RequestError(
                "the bundle has no language graphs", where=str(self.bundle.path), fix=self.bundle.without_language
            )
        generation = self.variant.generation
        asked = check(Asked(language, task, timestamps), generation, str(self.bundle.path))
        given = media if isinstance(media, (list, tuple)) else [media]
        video = isinstance(self.preprocess, VideoRecord)
        check_count(generation, len(given), video=video)
        if generation.speech:
            return transcribe(self, given[0], prompt, max_new_tokens, asked, listening)
        if video and generation.images:
            given = [*self._parts(given[0], next(iter(self.bundle.graph("encoder", self.variant.name).inputs)))]
        ids = self.ids(prompt, len(given))
        if len(given) > 1 and not video:
            # Before the first goes through the encoder, so that a file that is not there is told at once.
            given = [encoder_input(one, self.preprocess, self.bundle.path) for one in given]
        heard = [self._heard(one) for one in given]
        notes = [note for _, said in heard for note in said]
        words = [i for i in ids if i != generation.placeholder] if self.reads_text else None
        read = [self.encode(one, words) for one, _ in heard]
        encoded = joined(read) if generation.images else read[0]
        answer, kept, sizes = greedy(self.steps(), self.variant, encoded, ids, max_new_tokens)
        limit = limit_of(generation, max_new_tokens)
        notes += [f"the limit of {limit} tokens cut the answer off"] if len(answer) >= limit else []
        if again := repeated(answer):
            notes.append(f"the answer ends in the same {len(again[0])} tokens {again[1]} times")
        text = self.words.detokenize(answer) if self.words else ""
        return Answer(text, answer, kept, sizes, finished=len(answer) < limit, notes=tuple(notes))

    def _heard(self, media: Media) -> tuple[Media, list[str]]:
        """What a model that is asked about it hears of a sound, and what to know of that; other media as they are."""
        record, generation = self.preprocess, self.variant.generation
        if not isinstance(record, LogMelRecord) or generation is None or generation.attention == "cross":
            return media, []
        features = encoder_input(media, record, self.bundle.path)
        seconds, whole = silence(features, record), record.samples / record.sample_rate
        if seconds < _SILENCE:
            return features, []
        return features, [f"the last {seconds:.2f} of {whole:g} s are silence, which the model hears as such"]

    @cached_property
    def words(self) -> Text | None:
        """The text processor, None where the bundle has none; see `text_of` for what it raises."""
        return text_of(self.bundle, self.variant.generation)

    @cached_property
    def labels(self) -> list[str] | None:
        """The names of the classes that `logits` are of; see `labels_of`."""
        return labels_of(self.bundle)

    def text_processor(self) -> Text:
        """The text processor; RequestError where the bundle has none."""
        if self.words is None:
            raise RequestError(
                "the bundle has no text processor",
                fix="Give the prompt as ids of your tokenizer: --prompt-ids 1,15043, or in Python "
                "tokexport.load(BUNDLE).encode(FILE, [1, 15043]), or generate().",
            )
        return self.words

    def ids(self, prompt: str | Sequence[int], images: int = 1) -> list[int]:
        """The ids of a prompt about so many images, `bos` included; RequestError where it cannot be read."""
        if isinstance(prompt, str):
            processor, asked = self.text_processor(), self.variant.generation
            own = self.bundle.manifest.source.kind == "checkpoint" and asked is not None and asked.attention == "self"
            if own and asked is not None and asked.prompt is None:
                raise RequestError(
                    "the bundle does not say how this model wants a question asked: its checkpoint has no chat "
                    "template that could be followed",
                    where=str(self.bundle.path),
                    fix="Give the whole prompt as ids of the model's tokenizer, without those of the image or sound: "
                    "--prompt-ids 1,15043, or in Python generate(FILE, [1, 15043]).",
                )
            return (
                processor.prompt(prompt, images) if isinstance(processor, TokenizerFile) else processor.prompt(prompt)
            )
        try:
            return [operator.index(i) for i in prompt]
        except TypeError:
            raise RequestError(f"prompt {prompt!r} is neither text nor a list of ids") from None

    def _text(self, prompt: str | Sequence[int] | None) -> np.ndarray:
        """The encoder's input ``text`` [1, L, D] of a prompt."""
        if prompt is None:
            example = repr(question(self.bundle.manifest)) if self.words else "[id, ...]"
            raise RequestError(
                "the tokens that this encoder keeps depend on the question, and there is none",
                where=str(self.bundle.path),
                fix=f"Pass it: encode(input, prompt={example}).",
            )
        record = self.variant.text
        assert record is not None, "a variant with the graph has its record"
        length = self.bundle.graph("text", self.variant.name).inputs["input_ids"].shape[1]
        ids = padded(self.ids(prompt), length, record.pad, record.vocabulary)
        return self.run("text", input_ids=np.array([ids], np.int64))["text"]


def checked(
    role: str, record: GraphRecord, inputs: Mapping[str, Any], kinds: tuple[type, ...] = (np.ndarray,)
) -> dict[str, Any]:
    """Check the inputs of a graph by role name: one of these kinds, with the manifest's dtypes and shapes.

    Raises:
        RequestError: one is missing, unknown, or of another kind, dtype or shape.
    """
    unknown = sorted(inputs.keys() - record.inputs.keys())
    if unknown:
        fix = nearest(unknown[0], record.inputs, kind="inputs")
        raise RequestError(f"{role} has no input {unknown[0]!r}", fix=fix)
    missing = sorted(record.inputs.keys() - inputs.keys())
    if missing:
        raise RequestError(f"{role} needs input {missing[0]!r}", fix=f"Pass {_text(record.inputs[missing[0]])}.")
    for name, tensor in record.inputs.items():
        array = inputs[name]
        if not any(isinstance(array, kind) for kind in kinds):
            raise RequestError(f"input {name!r} of {role} is a {type(array).__name__}, not a numpy array")
        if not _fits(array, tensor):
            raise RequestError(
                f"input {name!r} of {role} is {array.dtype.name} {list(array.shape)}",
                where=f"tensor {tensor.name}",
                fix=f"Expected {_text(tensor)}.",
            )
    return dict(inputs)


def checked_outputs(role: str, record: GraphRecord, results: Mapping[str, Any]) -> dict[str, Any]:
    """Outputs by role name, from outputs by the graph's own names.

    Raises:
        GraphError: one has another dtype or shape than the manifest says.
    """
    for name, tensor in record.outputs.items():
        array = results[tensor.name]
        if not _fits(array, tensor):
            raise GraphError(
                f"output {name!r} of {role} is {array.dtype.name} {list(array.shape)}, and the manifest says "
                f"{_text(tensor)}",
                where=f"tensor {tensor.name}",
                fix="Export the bundle again: its graphs and its manifest are not of one export.",
            )
    return {name: results[tensor.name] for name, tensor in record.outputs.items()}


def _fits(array: Any, tensor: TensorRecord) -> bool:
    """Whether an array has the dtype and shape of a record."""
    rank = len(array.shape) == len(tensor.shape)
    sizes = rank and all(want in (-1, axis) for want, axis in zip(tensor.shape, array.shape))
    return sizes and array.dtype.name == tensor.dtype


def _text(tensor: TensorRecord) -> str:
    return f"{tensor.dtype} [{', '.join('any' if axis == -1 else str(axis) for axis in tensor.shape)}]"
