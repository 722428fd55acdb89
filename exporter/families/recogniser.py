"""What recognisers with a decoder of transformers (Whisper, Moonshine) share: they differ in their encoders."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from ...errors import RequestError
from ...runtimes.bundle.manifest import GenerationRecord, LogMelRecord, Preprocess, ProcessorRecord, WaveformRecord
from ..decoders.attention import NAME
from ..decoders.cross import CrossDecoder
from ..sources.configuration import built
from ..sources.source import Answered, GraphSource, Source
from ..sources.tokenizer import FILE, tokenizer_of
from ..sources.weights import let_go, without_weights
from .answering import a_word, unlike_greedy
from .spoken import heard
from .whisper_generation import Settings, settings

if TYPE_CHECKING:
    from ..sources.checkpoint import Checkpoint
    from .recogniser_reference import Reference

# Room for the ids that a transcript begins with, and for a few words.
PROMPT = 8
_TOKENIZER = f"processor/{FILE}"


@dataclass
class Recogniser(Source):
    """A checkpoint folder: an encoder, and a decoder that reads its tokens by cross-attention.

    Attributes:
        config: of the folder.
        checkpoint: the folder, for the decoder's weights, which are read on first use.
        positions: of a transcript, its prompt included.
        decoder_layers: of the decoder.
        settings: how it generates; None where only the encoder is exported.
        whole: the model that this one is a window of, whose decoder both have.
    """

    config: Any = field(kw_only=True)
    checkpoint: Checkpoint = field(kw_only=True)
    positions: int = field(kw_only=True)
    decoder_layers: int = field(kw_only=True)
    settings: Settings | None = None
    whole: Recogniser | None = None

    @property
    def whole_preprocess(self) -> Preprocess | None:
        """See `Source`: by it a runtime knows that a window is shorter than what the model was trained on."""
        return (self.whole or self).preprocess

    @abstractmethod
    def read_decoder(self) -> CrossDecoder:
        """The folder's decoder; `decoder` keeps it.

        Raises:
            RequestError: weights that do not belong to config.json.
        """

    @abstractmethod
    def make_reference(self) -> Reference:
        """The model in transformers' own code; `reference` keeps it."""

    def loaded(self, make: Callable[[Any], nn.Module], heads: int, bias: str = "cross_bias") -> CrossDecoder:
        """The decoder that transformers makes of `config`, with the folder's weights.

        Args:
            make: its class.
            heads: of its attention.
            bias: see `CrossDecoder`.

        Raises:
            RequestError: weights that do not belong to config.json.
        """
        config, weights = copy.deepcopy(self.config), self.checkpoint.weights
        config._attn_implementation = NAME
        with without_weights():
            decoder: Any = built(lambda: make(config), self.checkpoint.folder / "config.json")
            head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        weights.load(decoder, "decoder")
        if config.tie_word_embeddings:
            head.weight = decoder.embed_tokens.weight
        else:
            weights.load(head, "proj_out")
        return CrossDecoder(
            decoder=decoder.eval(),
            head=head,
            layers=self.decoder_layers,
            heads=heads,
            head_dim=config.hidden_size // heads,
            dim=config.hidden_size,
            prompt_length=PROMPT,
            capacity=self.positions,
            pad=self.settings.pad if self.settings else 0,
            bias=bias,
        )

    @property
    def sound(self) -> LogMelRecord | WaveformRecord:
        """How a sound becomes the encoder's input."""
        assert isinstance(self.preprocess, (LogMelRecord, WaveformRecord))
        return self.preprocess

    @cached_property
    def decoder(self) -> CrossDecoder:
        """See `read_decoder`."""
        return self.whole.decoder if self.whole else self.read_decoder()

    @cached_property
    def reference(self) -> Reference:
        """See `make_reference`."""
        return self.whole.reference if self.whole else self.make_reference()

    def let_go(self) -> None:
        """See `Source`."""
        # Of the encoder its reference has parameters of its own, over the same weights.
        let_go(self, "decoder")
        if self.whole:
            self.whole.let_go()

    def real_inputs(self, n: int) -> list[dict[str, np.ndarray]]:
        """What the encoder takes for `n` windows of speech; see `spoken`."""
        return heard(n, next(iter(self.encoder.inputs)), self.sound)

    def language(self, keep: int) -> list[GraphSource]:
        """prefill and decode for K = `keep`; the examples are an empty transcript and its first word."""
        if self.settings is None:
            return []
        barred = {*self.settings.suppress, *self.settings.begin_suppress, *self.settings.eos}
        word = a_word(self.config.vocab_size, barred, self.checkpoint)
        return self.decoder.graphs(keep, self.settings.prompt(), word)

    def generation(self, keep: int) -> GenerationRecord | None:
        """See `runtimes.bundle.manifest` for the contract; one capacity for each layer."""
        if self.settings is None:
            return None
        said = self.settings
        assert self.encoder.grid is not None, "a sound has a length"
        return GenerationRecord(
            attention="cross",
            image_span=(0, keep),
            tokens_in=self.encoder.grid[0],
            prompt_length=PROMPT,
            kv_capacity=[self.positions] * self.decoder_layers,
            max_new_tokens=self.positions - PROMPT,
            vocabulary=self.config.vocab_size,
            bos=said.bos,
            pad=said.pad,
            eos=said.eos,
            suppress=said.suppress,
            begin_suppress=said.begin_suppress,
            speech=said.speech,
        )

    def proof_prompt(self, images: int | None = None) -> list[int]:
        """See `Settings.prompt`."""
        return self.settings.prompt() if self.settings else []

    def own_answer(
        self, encoded: Mapping[str, np.ndarray], token_bias: np.ndarray, limit: int, images: int | None = None
    ) -> Answered | None:
        """See `Source`; by transformers."""
        if self.settings is None:
            return None
        return self.reference.answer(encoded["tokens"], token_bias, self.settings.prompt(), self.settings, limit)

    def add_language(self, named: str, *, headless: str) -> None:
        """Read what the language graphs need but their weights.

        Args:
            named: the key of config.json that holds `positions`.
            headless: the architecture of a folder that has no output layer, and so no language graphs; else empty.

        Raises:
            RequestError: too few positions; no tokenizer, or one that does not belong to config.json; no settings.
            MissingError: tokenizers is not installed.
        """
        if headless:
            self.notes = (f"this folder is a {headless}, which has no output layer: only its encoder is exported",)
            return
        if self.positions <= PROMPT:
            raise RequestError(
                f"{named} {self.positions} leaves no room for a transcript: {PROMPT} positions hold what it begins "
                "with",
                where=str(self.checkpoint.folder / "config.json"),
                fix="Export the encoder alone with --parts encoder.",
            )
        assert self.encoder.grid is not None, "a sound has a length"
        content, ids = tokenizer_of(self.checkpoint, self.config.vocab_size)
        seconds = self.sound.samples / self.sound.sample_rate / self.encoder.grid[0]
        self.settings = settings(self.checkpoint, self.config.vocab_size, ids, seconds)
        if note := unlike_greedy(self.checkpoint, ("suppress_tokens", "begin_suppress_tokens")):
            self.notes = (*self.notes, note)
        self.processor = ProcessorRecord(kind="tokenizers", tokenizer=_TOKENIZER)
        self.processor_files = {_TOKENIZER: content}
