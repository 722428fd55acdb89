"""tiny-vlm, the built-in model: encoder, embed, prefill and decode, its words, and drawn scenes for the proof."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from ...errors import RequestError
from ...graph_passes.compressors import Compressor
from ...graph_passes.compressors.pixel_unshuffle import PixelUnshuffle
from ...runtimes.bundle import GenerationRecord, PreprocessRecord, ProcessorRecord
from ..source import GraphSource, Parts, Question, Source
from ..zoo.tiny_vlm import model as zoo
from ..zoo.tiny_vlm.evaluate import evaluate, exam
from ..zoo.tiny_vlm.scenes import pixel_values, scene
from ..zoo.tiny_vlm.text import BOS, EOS, PAD, WORD_TO_ID, WORDS, detokenize, prompt

_VOCABULARY = "processor/vocabulary.json"

# The language graphs are proved on a prompt that could be asked, not on zeros.
_QUESTION, _WORD = "how many red objects are there ?", "there"


@dataclass
class TinyVLMSource(Source):
    """See the module docstring.

    Attributes:
        model: the whole model, in eval mode.
        parts: ``encoder`` gives no language graphs.
    """

    model: zoo.TinyVLM = field(kw_only=True)
    parts: Parts = "all"

    def real_inputs(self, n: int) -> list[dict[str, np.ndarray]]:
        """`n` drawn scenes."""
        return [{"pixel_values": pixel_values(image[None])} for image in self._scenes(n)]

    def questions(self, n: int, seed: int) -> list[Question]:
        """See `Source`; two questions on each scene."""
        paper = exam(n, seed, self.model.config.prompt_length)
        texts = (detokenize(row) for row in paper.ids.tolist())
        return [
            Question(paper.pixels[at], text, answer, paper.covered[at])
            for at, text, answer in zip(paper.scene, texts, paper.answers)
        ]

    def uncompressed_accuracy(self, n: int, seed: int) -> float:
        """See `Source`."""
        return evaluate(self.model, n, seed)["accuracy"]

    def prepared(self, compressor: Compressor) -> Source:
        """With the second projector for pixel_unshuffle.

        Raises:
            RequestError: other parameters of it than that projector was trained for.
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
            self.encoder, module=zoo.WideEncoder(self.model, projector).eval(), stand_in=zoo.WideEncoder.STAND_IN
        )
        return replace(self, encoder=encoder, files=(*self.files, zoo.PROJECTOR), plain=self)

    def language(self, keep: int) -> list[GraphSource]:
        """embed, prefill and decode for K = `keep`; the examples are one question and one word of an answer."""
        if self.parts == "encoder":
            return []
        config = self.model.config
        ids, last = prompt(_QUESTION, config.prompt_length)
        index = last + keep
        caches = [f"{kind}_{layer}" for layer in range(config.layers) for kind in ("key", "value")]
        bias = torch.zeros(1, keep)
        embeds = self._noise(1, config.sequence(keep), config.dim)
        past = {f"past_{name}": self._noise(1, config.heads, config.capacity(keep), config.head_dim) for name in caches}
        present = tuple(f"present_{name}" for name in caches)
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
                },
                outputs=("logits", *present),
            ),
            GraphSource(
                role="decode",
                module=zoo.Decode(self.model, keep).eval(),
                inputs={
                    "input_ids": torch.tensor([[WORD_TO_ID[_WORD]]]),
                    "write_index": torch.tensor([index + 1]),
                    "token_bias": bias,
                    **past,
                },
                outputs=("logits", *present),
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
        )

    @staticmethod
    def _noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(0))

    def _scenes(self, n: int) -> list[np.ndarray]:
        # A stream of its own: neither training nor evaluation has seen these scenes.
        return [scene(np.random.default_rng([0x9E0F, i])).image for i in range(n)]


def open_family(parts: Parts = "all") -> TinyVLMSource:
    """Read the shipped weights."""
    model = zoo.load()
    size = model.config.image
    return TinyVLMSource(
        kind="builtin",
        name="tiny-vlm",
        encoder=GraphSource(
            role="encoder",
            module=zoo.Encoder(model).eval(),
            inputs={"pixel_values": torch.zeros(1, 3, size, size)},
            outputs=("tokens",),
            grid=model.config.grid,
        ),
        files=(zoo.WEIGHTS,),
        auto_seam={name: name for name in ("encoder_output", "projector_input", "projector_output")},
        preprocess=PreprocessRecord(
            size=(size, size), resample="bicubic", crop="center", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
        ),
        processor=ProcessorRecord(kind="words", vocabulary=_VOCABULARY),
        processor_files={_VOCABULARY: json.dumps(WORDS.to_json(), indent=1).encode()},
        has_task=True,
        model=model,
        parts=parts,
    )
