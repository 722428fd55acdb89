"""tiny-ocr, the built-in model that reads numbers: the graphs of tiny-vlm over another encoder, and drawn numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...graph_passes.compressors import Compressor
from ..sources.source import Parts, Question, Source
from ..zoo.tiny_ocr import model as zoo
from ..zoo.tiny_ocr.evaluate import evaluate, question_set
from ..zoo.tiny_ocr.pictures import Picture, picture
from ..zoo.tiny_ocr.text import WORDS
from ..zoo.tiny_vlm.scenes import pixel_values
from .tiny_vlm import TinyVLMSource, of_pictures, questions_of


@dataclass
class TinyOCRSource(TinyVLMSource):
    """See the module docstring."""

    def real_inputs(self, n: int) -> list[dict[str, np.ndarray]]:
        """`n` drawn pictures."""
        return [{"pixel_values": pixel_values(drawn.image[None])} for drawn in _drawn(n)]

    def real_prompts(self, n: int, length: int) -> list[list[int]]:
        """A question about each of the pictures of `real_inputs`."""
        return [WORDS.prompt(drawn.numbers[0].question.text)[:length] for drawn in _drawn(n)]

    def questions(self, n: int, seed: int) -> list[Question]:
        """See `Source`; two questions on each picture."""
        return questions_of(question_set(n, seed, self.model.config.prompt_length))

    def uncompressed_accuracy(self, n: int, seed: int) -> float:
        """See `Source`."""
        assert isinstance(self.model, zoo.TinyOCR)
        return evaluate(self.model, n, seed)["accuracy"]

    def prepared(self, compressor: Compressor) -> Source:
        """Itself: there is one projector."""
        return self


def _drawn(n: int) -> list[Picture]:
    # A seed of its own: neither training nor evaluation has seen these pictures.
    return [picture(np.random.default_rng([0x9E0F, i])) for i in range(n)]


def open_family(parts: Parts = "all") -> TinyOCRSource:
    """Read the shipped weights."""
    model = zoo.load()
    return TinyOCRSource(
        name="tiny-ocr",
        files=(zoo.WEIGHTS,),
        model=model,
        parts=parts,
        example=("read the red number", "7"),
        **of_pictures(model, WORDS),
    )
