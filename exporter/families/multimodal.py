"""What models of transformers share that read the tokens of a picture or a sound among words: they differ in their
encoders, and in where things lie.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from ...errors import RequestError
from ...runtimes.bundle.manifest import GenerationRecord, ProcessorRecord, PromptRecord, TextRecord
from ...runtimes.images import placed
from ...runtimes.tokenizer_file import TokenizerFile
from ..decoders.attention import NAME
from ..decoders.language import LanguageDecoder, Positions
from ..decoders.states import attends, prepare
from ..sources.chat import prompt_of
from ..sources.source import Answered, GraphSource, Source
from ..sources.tokenizer import FILE, tokenizer_of
from ..sources.weights import let_go, without_weights
from .answering import Marks, a_word, check_placeholder, marks, unlike_greedy
from .between_layers import check_inner, cuts_of, seams_in, tokens_by_layer
from .input_embeddings import text_graph
from .layout import Layout, prefix_of, shell
from .limits import check_by_position, check_images, check_lengths
from .multimodal_reference import Reference, parted

if TYPE_CHECKING:
    from typing_extensions import Self

    from ...graph_passes.compressors import Case
    from ...graph_passes.insertion.sequence import Step
    from ..decoders.stages import Cut
    from ..sources.checkpoint import Checkpoint

_TOKENIZER = f"processor/{FILE}"
# What a model is asked about in the proof.
_QUESTIONS = {"image": "What is in the picture?", "video": "What happens?", "audio": "What is said?"}


@dataclass
class Multimodal(Source):
    """A checkpoint folder: an encoder of images or sounds, and a language model that reads its tokens among words.

    Attributes:
        config: of the folder.
        checkpoint: the folder, for the language model's weights, which are read on first use.
        layout: see the class.
        placeholder: id of the place of the image or sound in a prompt.
        marks: the ids that end and fill; None where only the encoder is exported.
        asked: how a question is asked; None: prompts are ids.
        offset: ids before the image or sound.
        further: n, see `LanguageDecoder`.
    """

    config: Any = field(kw_only=True)
    checkpoint: Checkpoint = field(kw_only=True)
    layout: Layout = field(kw_only=True)
    placeholder: int = field(kw_only=True)
    marks: Marks | None = None
    asked: PromptRecord | None = None
    offset: int = 1
    further: int = 0

    @property
    def language_config(self) -> Any:
        """Configuration of the language model."""
        return self.config.get_text_config()

    @property
    def joins(self) -> str:
        """See `Source`."""
        return self.layout.joins

    @property
    def images(self) -> int:
        """See `Source`; I."""
        return len(self.layout.frames) or self.checkpoint.lengths.images

    def positions(self) -> Positions:
        """Of the uncompressed tokens."""
        return Positions.in_a_row(self.tokens)

    @property
    def tokens(self) -> int:
        """N, of the uncompressed encoder."""
        assert self.encoder.grid is not None, "a family without a grid says its own"
        return math.prod(self.encoder.grid)

    # The language model

    @cached_property
    def decoder(self) -> LanguageDecoder:
        """The language model with its weights, read on first use.

        Raises:
            RequestError: weights that do not belong to config.json.
        """
        assert self.marks is not None, "there are language graphs"
        model, head = self._loaded()
        text = self.language_config
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        return LanguageDecoder(
            model=model,
            head=head,
            layers=text.num_hidden_layers,
            heads=heads,
            head_dim=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
            dim=text.hidden_size,
            positions=self.positions(),
            offset=self.offset,
            prompt_length=self.checkpoint.lengths.prompt,
            answer_length=self.checkpoint.lengths.answer,
            pad=self.marks.pad,
            further=self.further,
            image_sees=self.layout.image_sees,
            states=prepare(model),
            as_zero=self.placeholder if self.layout.mark_is_zero else None,
            images=self.images,
            by_position=self.by_position,
        )

    def _loaded(self) -> tuple[nn.Module, nn.Linear]:
        """The language model, with our attention, and its output layer."""
        weights, text = self.checkpoint.weights, self.language_config
        model: Any = self.whole(NAME).get_submodule(self.layout.language)
        with without_weights():
            head = nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        weights.load(model, self._prefix())
        found = next((prefix for prefix in self.layout.head_keys if weights.has(prefix)), None)
        if found is None:
            head.weight = model.get_input_embeddings().weight
        else:
            weights.load(head, found)
        return model.eval(), head

    def whole(self, attention: str) -> nn.Module:
        """The model of transformers, without weights."""
        return shell(self.checkpoint, self.config, attention)

    def _prefix(self) -> str:
        """Of the weights of the language model; empty where the folder has none, for example only a vision tower."""
        return prefix_of(self.checkpoint, self.layout)

    @cached_property
    def reference(self) -> Reference:
        """The model in transformers' own code."""
        whole = self.whole("eager")
        return Reference(whole, self.layout.language, self.decoder)

    def inside(self, steps: Sequence[Step], *, size_bias: bool) -> Self:
        """See `Source`."""
        check_inner(self, steps)
        return replace(self, inner=tuple(steps), inner_bias=size_bias)

    def read_by_position(self) -> Self:
        """See `Source`."""
        check_by_position(self)
        return replace(self, by_position=True)

    @property
    def between_layers(self) -> str:
        """See `Source`."""
        return seams_in(self)

    def cuts(self, keep: int) -> tuple[Cut, ...]:
        """The compressors between the layers of the language model, where K = `keep` tokens enter it."""
        return cuts_of(self, keep)

    def inner_cases(self, keep: int) -> list[Case]:
        """See `Source`."""
        return [cut.case for cut in self.cuts(keep)]

    def language(self, keep: int) -> list[GraphSource]:
        """embed, prefill and decode for K = `keep`; the examples are a question and a word of an answer."""
        if self.marks is None:
            return []
        barred = {self.placeholder, *self.marks.eos}
        word = a_word(self.language_config.vocab_size, barred, self.checkpoint)
        prompt, record = self.proof_prompt(), self.generation(keep)
        starts: list[int] = []
        if self.images > 1 and record:
            prompt, starts = placed(prompt, record, self.images)
        return replace(self.decoder, cuts=self.cuts(keep)).graphs(keep, prompt, word, starts)

    def generation(self, keep: int) -> GenerationRecord | None:
        """See `runtimes.bundle.manifest` for the contract; one capacity for each layer, 0 for those with a state."""
        if self.marks is None:
            return None
        text, lengths, images = self.language_config, self.checkpoint.lengths, self.images
        seen = tokens_by_layer(self.cuts(keep), keep, text.num_hidden_layers)
        return GenerationRecord(
            image_span=(self.offset, keep),
            tokens_in=self.tokens,
            prompt_length=lengths.prompt,
            kv_capacity=[
                (lengths.prompt + images * count + lengths.answer) * attending
                for count, attending in zip(seen, attends(text), strict=True)
            ],
            max_new_tokens=lengths.answer,
            vocabulary=text.vocab_size,
            bos=self.marks.bos,
            pad=self.marks.pad,
            eos=self.marks.eos,
            prompt=self.asked,
            images=images if images > 1 else None,
            placeholder=self.placeholder if images > 1 else None,
            by_position=self.by_position or None,
        )

    def proof_prompt(self, images: int | None = None) -> list[int]:
        """A question, or random ids where the folder does not say how to ask one."""
        return self.prompts(1, images or self.images)[0] if self.marks else []

    def prompts(self, n: int, images: int = 1) -> list[list[int]]:
        """Prompts as the model wants them asked; where it takes several images, with the places of so many."""
        if self.asked is not None:
            return [self._questions[images - 1]] * n
        found = self._random(n, max(self.offset + self.images, self.checkpoint.lengths.prompt // 4))
        if self.images > 1:
            for ids in found:
                ids[:] = [i for i in ids if i != self.placeholder]
                for number in range(images):
                    # With a word behind each.
                    ids.insert(self.offset + 2 * number, self.placeholder)
        return found

    @cached_property
    def _questions(self) -> list[list[int]]:
        """The ids of a question about one image, two, ...; a tokenizer of many megabytes is read for them once."""
        path = self.checkpoint.folder / FILE
        reader = TokenizerFile(self.processor_files[_TOKENIZER], path, self.generation(self.tokens))
        asked = self.layout.question or _QUESTIONS[self.layout.media]
        return [reader.prompt(asked, images) for images in range(1, self.images + 1)]

    def _random(self, n: int, length: int) -> list[list[int]]:
        rng, vocabulary = np.random.default_rng(0), self.language_config.vocab_size
        return [rng.integers(0, vocabulary, length).tolist() for _ in range(n)]

    def own_answer(
        self, encoded: Mapping[str, np.ndarray], token_bias: np.ndarray, limit: int, images: int | None = None
    ) -> Answered | None:
        """See `Source`; by transformers."""
        if self.marks is None:
            return None
        prompt, place = self.proof_prompt(images), self.offset
        # The words before the first image, between them and behind the last.
        words = [prompt[:place], prompt[place:]] if self.images == 1 else parted(prompt, self.placeholder)
        cuts = self.cuts(encoded["tokens"].shape[1] // (len(words) - 1)) if self.inner else ()
        return self.reference.answer(encoded, token_bias, words, self.marks, limit, cuts)

    def let_go(self) -> None:
        """See `Source`."""
        let_go(self, "model")

    def opened(self, text_seam: str) -> Self:
        """This model, with its language graphs where they are wanted; see `add_language`.

        Args:
            text_seam: the seam whose tokens are in the space of the input embeddings.
        """
        self.text_seam = text_seam if self._prefix() else ""
        if self.checkpoint.parts == "all":
            self.add_language()
        return self

    def add_language(self) -> None:
        """Read what the language graphs need but their weights.

        Raises:
            RequestError: no tokenizer, or one that does not belong to config.json; nothing ends an answer; a prompt is
                longer than the graphs.
            MissingError: tokenizers is not installed.
        """
        if not self._prefix():
            self.notes = (*self.notes, "this folder has no language model: only its encoder is exported")
            return
        vocabulary = self.language_config.vocab_size
        check_placeholder(self.checkpoint, self.placeholder, vocabulary, self.layout.media)
        check_images(self)
        content, _ = tokenizer_of(self.checkpoint, vocabulary)
        layout = self.layout
        found = prompt_of(
            self.checkpoint,
            content,
            self.placeholder,
            layout.mark,
            layout.becomes,
            layout.asks,
            layout.media,
            written=layout.written,
            images=self.images,
            frames=layout.frames,
            template=layout.template,
        )
        if isinstance(found, tuple):
            self.asked, self.offset = found
        else:
            self.notes = (*self.notes, f"prompts are lists of ids, with {self.offset} before the tokens: {found}")
        if note := unlike_greedy(self.checkpoint):
            self.notes = (*self.notes, note)
        self.processor = ProcessorRecord(kind="tokenizers", tokenizer=_TOKENIZER)
        self.processor_files = {_TOKENIZER: content}
        self.takes_lengths = True
        check_lengths(self)
        self.marks = marks(self.checkpoint, self.language_config, vocabulary)
        length, lengths = len(self.proof_prompt()), self.checkpoint.lengths
        length -= self.images if self.images > 1 else 0
        if length > lengths.prompt:
            about = f" about {self.images} {layout.called}" if self.images > 1 else ""
            raise RequestError(
                f"a short question{about} is {length} ids with this model's chat template, and the graphs would take "
                f"{lengths.prompt}",
                where=str(self.checkpoint.folder),
                fix=f"Give --prompt-length {2 * length}, or more for longer questions.",
            )

    # The text of a question, for methods that read it

    def text(self, length: int) -> GraphSource | None:
        """The input embeddings of the language model: the projector maps the tokens into their space."""
        record = self.text_record()
        if not (self.text_seam and self._prefix()):
            return None
        with without_weights():
            embedding = nn.Embedding(record.vocabulary, self.language_config.hidden_size)
        self.checkpoint.weights.load(embedding, f"{self._prefix()}.embed_tokens")
        return text_graph(embedding, record, length)

    def text_record(self) -> TextRecord:
        """The placeholder's id counts as special, like those that begin, end and pad a prompt."""
        text: Any = self.language_config
        special = [self.placeholder, text.pad_token_id, text.bos_token_id, text.eos_token_id]
        found = {i for mark in special for i in (mark if isinstance(mark, list) else [mark]) if i is not None}
        pad = self.placeholder if text.pad_token_id is None else text.pad_token_id
        return TextRecord(vocabulary=text.vocab_size, pad=pad, blank=sorted(found))

    def real_prompts(self, n: int, length: int) -> list[list[int]]:
        """Prompts, or random ids where only their embeddings are exported."""
        if not self.marks:
            return self._random(n, max(1, 3 * length // 4))
        prompts = self.prompts(n)
        return prompts if self.images == 1 else [[i for i in ids if i != self.placeholder] for ids in prompts]
