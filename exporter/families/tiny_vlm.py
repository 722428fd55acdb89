"""tiny-vlm, the built-in model: encoder, embed, prefill and decode, its words, and drawn scenes for the proof."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...errors import RequestError
from ...graph_passes.compressors import Compressor
from ...graph_passes.compressors.pixel_unshuffle import PixelUnshuffle
from ...runtimes.bundle.manifest import GenerationRecord, PreprocessRecord, ProcessorRecord, TextRecord
from ...runtimes.generate import padded
from ...runtimes.words import Words
from ..sources.source import GraphSource, Parts, Question, Source
from ..zoo.members import assignment_example
from ..zoo.tiny_vlm import model as zoo
from ..zoo.tiny_vlm.evaluate import QuestionSet, evaluate, question_set
from ..zoo.tiny_vlm.questions import questions as ask
from ..zoo.tiny_vlm.scenes import Scene, pixel_values, scene
from ..zoo.tiny_vlm.text import BOS, EOS, PAD, WORDS
from .input_embeddings import text_graph

if TYPE_CHECKING:
    from typing_extensions import Self

VOCABULARY = "processor/vocabulary.json"


@dataclass
class TinyVLMSource(Source):
    """See the module docstring.

    Attributes:
        model: the whole model, in eval mode.
        parts: ``encoder`` leaves the language graphs out.
        words: of the model.
        example: a realistic question and a word of its answer, on which the language graphs are proved.
    """

    model: zoo.TinyVLM = field(kw_only=True)
    parts: Parts = "all"
    words: Words = WORDS
    example: tuple[str, str] = ("how many red objects are there ?", "there")

    def real_inputs(self, n: int) -> list[dict[str, np.ndarray]]:
        """`n` drawn pictures."""
        return [{"pixel_values": pixel_values(picture.image[None])} for picture in self._drawn(n)]

    def questions(self, n: int, seed: int) -> list[Question]:
        """See `Source`; two questions on each scene."""
        return questions_of(question_set(n, seed, self.model.config.prompt_length))

    def uncompressed_accuracy(self, n: int, seed: int) -> float:
        """See `Source`."""
        return evaluate(self.model, n, seed)["accuracy"]

    def prepared(self, compressor: Compressor) -> Source:
        """This model, for pixel_unshuffle with the second projector.

        Raises:
            RequestError: parameters of pixel_unshuffle that the second projector was not trained for.
        """
        if not isinstance(compressor, PixelUnshuffle):
            return self
        if (compressor.r, compressor.version) != (zoo.BLOCK, "v2"):
            raise RequestError(
                f"tiny-vlm's projector for pixel_unshuffle was trained for r={zoo.BLOCK} and version=v2, not for "
                f"r={compressor.r} and version={compressor.version}",
                fix="Leave both at their defaults.",
            )
        projector = zoo.load_wide_projector(self.model.config)
        encoder = replace(
            self.encoder, module=zoo.WideEncoder(self.model, projector).eval(), placeholder=zoo.WideEncoder.PLACEHOLDER
        )
        return replace(self, encoder=encoder, files=(*self.files, zoo.PROJECTOR), plain=self)

    def smaller_encoder(self, grid: tuple[int, ...]) -> GraphSource | None:
        """See `Source`; the learned positions, which were trained for one size, are interpolated (bilinear)."""
        if len(grid) != len(self.model.config.grid) or self.model.config.frames > 1:
            return None
        height, width = (self.model.config.patch * side for side in grid)
        return GraphSource(
            role="encoder",
            module=zoo.Encoder(zoo.smaller(self.model, (grid[0], grid[1]))).eval(),
            inputs={"pixel_values": torch.zeros(1, 3, height, width)},
            outputs=("tokens",),
            grid=grid,
        )

    def language(self, keep: int) -> list[GraphSource]:
        """embed, prefill and decode for K = `keep`; the examples are one question and one word of an answer."""
        if self.parts == "encoder":
            return []
        config = self.model.config
        question, word = self.example
        ids = padded(self.words.prompt(question), config.prompt_length, PAD, config.vocab)
        index = len(self.words.prompt(question)) - 1 + keep
        caches = [f"{kind}_{layer}" for layer in range(config.layers) for kind in ("key", "value")]
        bias = torch.zeros(1, keep)
        embeds = self._noise(1, config.sequence(keep), config.dim)
        past = {f"past_{name}": self._noise(1, config.heads, config.capacity(keep), config.head_dim) for name in caches}
        return [
            GraphSource(
                role="embed",
                module=zoo.Embed(self.model).eval(),
                inputs={"input_ids": torch.tensor([ids]), "tokens": self._noise(1, keep, config.dim)},
                outputs=("inputs_embeds",),
            ),
            GraphSource(
                role="prefill",
                module=zoo.Prefill(self.model, keep).eval(),
                inputs={
                    "inputs_embeds": embeds,
                    "kept_indices": torch.linspace(0, config.tokens - 1, keep).long()[None],
                    "token_bias": bias,
                    "last_index": torch.tensor([index]),
                    **(assignment_example(config.tokens, keep) if self.by_position else {}),
                },
                outputs=("logits", *(f"present_{name}" for name in caches)),
            ),
            GraphSource(
                role="decode",
                module=zoo.Decode(self.model, keep).eval(),
                inputs={
                    "input_ids": torch.tensor([self.words.tokenize(word)]),
                    "write_index": torch.tensor([index + 1]),
                    "token_bias": bias,
                    **past,
                },
                outputs=("logits", *(f"new_{name}" for name in caches)),
            ),
        ]

    def generation(self, keep: int) -> GenerationRecord | None:
        """See `zoo.tiny_vlm.model` for the contract; one capacity for each layer."""
        if self.parts == "encoder":
            return None
        config = self.model.config
        return GenerationRecord(
            image_span=(config.offset, keep),
            tokens_in=config.tokens,
            prompt_length=config.prompt_length,
            kv_capacity=[config.capacity(keep)] * config.layers,
            max_new_tokens=config.max_new,
            vocabulary=config.vocab,
            bos=BOS,
            pad=PAD,
            eos=[EOS],
            by_position=self.by_position or None,
        )

    def read_by_position(self) -> Self:
        """See `Source`."""
        if self.parts == "encoder":
            super().read_by_position()
        return replace(self, by_position=True)

    def text(self, length: int) -> GraphSource | None:
        """The decoder's own embeddings: the projector maps the tokens into their space."""
        record = self.text_record()
        return text_graph(self.model.decoder.embedding, record, length) if self.text_seam else None

    def text_record(self) -> TextRecord:
        """See `Source`."""
        return TextRecord(vocabulary=self.model.config.vocab, pad=PAD, blank=[PAD, BOS, EOS])

    def real_prompts(self, n: int, length: int) -> list[list[int]]:
        """A question about each of the pictures of `real_inputs`."""
        rng = np.random.default_rng(0x9E0F)
        return [WORDS.prompt(ask(drawn, rng, 1)[0].text)[:length] for drawn in self._drawn(n)]

    @staticmethod
    def _noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(0))

    def _drawn(self, n: int) -> list[Scene]:
        # A seed of its own: neither training nor evaluation has seen these scenes.
        return [scene(np.random.default_rng([0x9E0F, i])) for i in range(n)]


def questions_of(drawn: QuestionSet) -> list[Question]:
    """The questions of a set as the pipeline takes them."""
    return [
        Question(drawn.pixels[at], question.text, question.answer, content)
        for at, question, content in zip(drawn.scene, drawn.asked, drawn.content)
    ]


def open_family(parts: Parts = "all") -> TinyVLMSource:
    """Read the shipped weights."""
    model = zoo.load()
    return TinyVLMSource(name="tiny-vlm", files=(zoo.WEIGHTS,), model=model, parts=parts, **of_pictures(model, WORDS))


def of_pictures(model: zoo.TinyVLM, words: Words) -> dict[str, Any]:
    """What sources of pictures have in common, for a model and its words."""
    size = model.config.image
    return {
        "kind": "builtin",
        "modality": "image",
        "encoder": GraphSource(
            role="encoder",
            module=zoo.Encoder(model).eval(),
            inputs={"pixel_values": torch.zeros(1, 3, size, size)},
            outputs=("tokens",),
            grid=model.config.grid,
        ),
        "auto_seam": {name: name for name in ("encoder_output", "projector_input", "projector_output")},
        "text_seam": "projector_output",
        "preprocess": PreprocessRecord(
            size=(size, size), resample="bicubic", crop="center", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
        ),
        "processor": ProcessorRecord(kind="words", vocabulary=VOCABULARY),
        "processor_files": {VOCABULARY: json.dumps(words.to_json(), indent=1).encode()},
        "has_task": True,
        "words": words,
    }
