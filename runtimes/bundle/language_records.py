"""What the manifest says about the ids of the language graphs: generation, speech, and the text of the question."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from .strict import LARGEST, BundlePath, Size, Strict

# More than any language model reads; prompts are padded to their length.
LONGEST_PROMPT = 1 << 20
# More than the context of any language model holds beside a question.
MOST_IMAGES = 64


class SpeechRecord(Strict):
    """How a recogniser is told what to write: the ids that its transcripts begin with, as in Whisper.

    A prompt is `start`, the id of the language and of the task where the model has them, and `no_timestamps` unless
    times are wanted.

    Attributes:
        start: the first id of every prompt.
        languages: code, such as ``en``, -> id; empty where the model knows one language and takes no id for it. With
            none asked for, the language is the likeliest of these ids after `start`.
        tasks: ``transcribe`` and ``translate`` -> id; empty likewise.
        no_timestamps: id that says that no times are wanted; None: the model writes none.
        timestamps: id of the time 0.00 s, the last ones of the vocabulary counting on from it; None likewise.
        timestamp_seconds: from one of these ids to the next.
        latest_start: the first time of a window is at most so many ids after `timestamps`; None: any.
    """

    start: int = Field(ge=0)
    languages: dict[str, Annotated[int, Field(ge=0)]] = Field(default_factory=dict)
    tasks: dict[str, Annotated[int, Field(ge=0)]] = Field(default_factory=dict)
    no_timestamps: Annotated[int, Field(ge=0)] | None = None
    timestamps: Annotated[int, Field(ge=1)] | None = None
    timestamp_seconds: float = Field(default=0.02, gt=0)
    latest_start: Annotated[int, Field(ge=0)] | None = None

    def told(self) -> tuple[Any, ...]:
        """What one window of a model is told, and all others of it must be told as well."""
        return self.start, self.languages, self.tasks, self.no_timestamps, self.timestamps

    def ids(self) -> Iterator[int]:
        """Every id that is named."""
        yield from (self.start, *self.languages.values(), *self.tasks.values())
        yield from (i for i in (self.no_timestamps, self.timestamps) if i is not None)


class PromptRecord(Strict):
    """The text around a question: one turn of the model's chat template, which is rendered once, by the exporter.

    The ids of a prompt are those of `before` + question + `after`, read by the tokenizer with its special tokens, but
    for the one id `image`, where the tokens of the image stand.

    Attributes:
        before: with the placeholder of the image, once.
        several: the same for two images, for three, and so on; absent where a prompt takes one.
        after: up to where the answer begins; empty where a question is what the answer begins with.
        image: id of the placeholder.
        add_special_tokens: whether the tokenizer adds its own ids around them, such as `bos`.
        strips: whether white space around a question is left out.
    """

    before: str
    after: str
    image: int = Field(ge=0)
    several: list[str] | None = None
    add_special_tokens: bool = False
    strips: bool = False

    def in_front(self, images: int) -> str:
        """`before`, for so many images."""
        return self.before if images == 1 else (self.several or [])[images - 2]


class GenerationRecord(Strict):
    """What greedy generation needs in addition to the graphs (see the docstring of manifest.py).

    Attributes:
        attention: how the decoder reads the tokens: ``self``, as a part of its sequence, or ``cross``, by
            cross-attention.
        image_span: [offset, K] in the compressed sequence: offset ids precede the image. [0, K] where `attention` is
            cross. With several images K is of each, and `offset` of the first one of a prompt with one.
        tokens_in: N, the length of the span before compression, from which text positions after the image count.
        prompt_length: P, the fixed length of the text, image span excluded.
        kv_capacity: key/value slots per layer; 0 for one that carries a state.
        max_new_tokens: at most this many tokens may be generated.
        vocabulary: V.
        suppress: ids that are never chosen.
        begin_suppress: ids that are not chosen as the first of an answer.
        speech: how a transcript is begun; None: with `bos`.
        prompt: how a question is asked; None: with `bos` in front of it.
        images: how many a prompt may have, 2 or more; absent: one. Schema 2.3.
        placeholder: with `images`: the id that stands in a prompt for each.
        by_position: prefill takes the encoder's assignment, and reads slots at the positions of all tokens in them;
            absent: it does not. Schema 2.6.
    """

    attention: Literal["self", "cross"] = "self"
    image_span: tuple[int, int]
    tokens_in: Size
    prompt_length: Annotated[int, Field(ge=1, le=LONGEST_PROMPT)]
    kv_capacity: list[Annotated[int, Field(ge=0, le=LARGEST)]]
    max_new_tokens: Size
    vocabulary: Size
    bos: int
    pad: int
    eos: list[int] = Field(min_length=1)
    suppress: list[int] = Field(default_factory=list)
    begin_suppress: list[int] = Field(default_factory=list)
    speech: SpeechRecord | None = None
    prompt: PromptRecord | None = None
    images: Annotated[int, Field(ge=2, le=MOST_IMAGES)] | None = None
    placeholder: Annotated[int, Field(ge=0)] | None = None
    by_position: Literal[True] | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        """The encoder's outputs that generation reads."""
        return ("tokens", "kept_indices", "sizes", *(["assignment"] if self.by_position else []))

    @model_validator(mode="after")
    def _images_are_placed(self) -> GenerationRecord:
        if (self.images is None) != (self.placeholder is None):
            raise ValueError("`images` and `placeholder` go together, and one is missing")
        if self.by_position and (self.images or self.attention == "cross"):
            raise ValueError("`by_position` is of prompts with one image, among whose words its tokens have positions")
        if self.images and self.attention == "cross":
            raise ValueError(f"a prompt of {self.images} images has places for none of them in cross-attention")
        if self.prompt and len(self.prompt.several or ()) != (self.images or 1) - 1:
            raise ValueError(
                f"`prompt` says how 1 to {1 + len(self.prompt.several or ())} images are asked about, and a prompt may "
                f"have {self.images or 1}"
            )
        if self.images and self.prompt and self.prompt.image != self.placeholder:
            raise ValueError(f"the image of `prompt` is id {self.prompt.image}, and not {self.placeholder}")
        return self

    @model_validator(mode="after")
    def _consistent(self) -> GenerationRecord:
        offset, kept = self.image_span
        if not (0 <= offset <= self.prompt_length and 1 <= kept <= self.tokens_in):
            raise ValueError(
                f"image_span {list(self.image_span)} does not fit prompt_length {self.prompt_length} "
                f"and tokens_in {self.tokens_in}"
            )
        if self.attention == "cross" and offset:
            raise ValueError(
                f"image_span {list(self.image_span)} begins inside a text that cross-attention leaves alone"
            )
        named = (self.bos, self.pad, *self.eos, *self.suppress, *self.begin_suppress)
        spoken = [*(self.speech.ids() if self.speech else ()), *([self.prompt.image] if self.prompt else ())]
        spoken += [] if self.placeholder is None else [self.placeholder]
        outside = [i for i in (*named, *spoken) if not 0 <= i < self.vocabulary]
        if outside:
            raise ValueError(f"special id {outside[0]} is outside the vocabulary of {self.vocabulary}")
        return self


class TextRecord(Strict):
    """The input of the graph `text`; L is its length.

    Attributes:
        vocabulary: every id is below it.
        pad: fills a prompt up to L.
        blank: special ids, `pad` among them, whose rows of the text are zeros.
    """

    vocabulary: Size
    pad: int = Field(ge=0)
    blank: list[Annotated[int, Field(ge=0)]]

    @model_validator(mode="after")
    def _consistent(self) -> TextRecord:
        outside = [i for i in (self.pad, *self.blank) if i >= self.vocabulary]
        if outside:
            raise ValueError(f"special id {outside[0]} is outside the vocabulary of {self.vocabulary}")
        if self.pad not in self.blank:
            raise ValueError(f"pad {self.pad} is not among the blank ids {self.blank}, and would count as a word")
        return self


class ProcessorRecord(Strict):
    """How text becomes ids, and ids text.

    Attributes:
        kind: ``words`` (one id per word), ``tokenizers`` (a tokenizer.json of Hugging Face's library) or ``none``.
        vocabulary: of ``words``: its file.
        tokenizer: of ``tokenizers``: its file.
        labels: of an encoder that gives ``logits``: a file with the names of the classes, a list in JSON.
    """

    kind: Literal["words", "tokenizers", "none"] = "none"
    vocabulary: BundlePath | None = None
    tokenizer: BundlePath | None = None
    labels: BundlePath | None = None

    @model_validator(mode="after")
    def _has_its_file(self) -> ProcessorRecord:
        if self.kind == "words" and self.vocabulary is None:
            raise ValueError("a words processor needs its vocabulary file")
        if self.kind == "tokenizers" and self.tokenizer is None:
            raise ValueError("a tokenizers processor needs its tokenizer file")
        return self

    @property
    def files(self) -> list[str]:
        """What it reads."""
        return [file for file in (self.vocabulary, self.tokenizer, self.labels) if file]


class WeightsRecord(Strict):
    """The language graphs' weights in fewer bits than they are computed in, and how far that was measured to matter.

    The float graphs were compared with the model; these are compared with them: at each word of texts of which all
    words before it are given, whether both find the same word likeliest, and how likely the text's own word is.

    Attributes:
        weights: type of the matrices of the products.
        form: the operators that read them: of ONNX Runtime (``MatMulNBits``, and for the table of words
            ``GatherBlockQuantized``), or the standard ``DequantizeLinear``, which TensorRT reads.
        block_size: numbers that share a scale; absent: the columns of a matrix have one each.
        words: compared; absent where the export proved nothing, as are the next three.
        agreement: share of these words that both find likeliest.
        perplexity: of the texts.
        float_perplexity: of the texts by the float graphs.
    """

    weights: Literal["int8", "int4"]
    form: Literal["MatMulNBits", "DequantizeLinear"]
    block_size: Size | None = None
    words: Size | None = None
    agreement: Annotated[float, Field(ge=0, le=1)] | None = None
    perplexity: Annotated[float, Field(ge=1)] | None = None
    float_perplexity: Annotated[float, Field(ge=1)] | None = None
