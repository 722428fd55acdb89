"""tiny-video, the built-in video model: an encoder of clips before the language graphs of tiny-vlm, and drawn clips.

    pixel_values [1, 8, 3, 48, 48] float32 -> tokens [1, N, D], N = 288 in a grid of 8 x 6 x 6

The frames go through the encoder as a batch. A paper's encoder output is therefore read at the projector input, where
the tokens of all frames are one sequence.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import torch

from ...graph_passes.compressors import Compressor
from ...runtimes.bundle.manifest import PreprocessRecord, ProcessorRecord, VideoRecord
from ..sources.source import GraphSource, Parts, Question, Source
from ..zoo.tiny_video import model as zoo
from ..zoo.tiny_video.clips import Clip, clip, clip_values
from ..zoo.tiny_video.evaluate import evaluate, question_set
from ..zoo.tiny_video.questions import questions as ask
from ..zoo.tiny_video.text import WORDS
from .tiny_vlm import VOCABULARY, TinyVLMSource, questions_of


@dataclass
class TinyVideoSource(TinyVLMSource):
    """See the module docstring."""

    def real_inputs(self, n: int) -> list[dict[str, np.ndarray]]:
        """`n` drawn clips."""
        return [{"pixel_values": clip_values(drawn.frames[None])} for drawn in _clips(n)]

    def real_prompts(self, n: int, length: int) -> list[list[int]]:
        """A question about each of the clips of `real_inputs`."""
        rng = np.random.default_rng(0x9E0F)
        return [WORDS.prompt(ask(drawn, rng, 1)[0].text)[:length] for drawn in _clips(n)]

    def questions(self, n: int, seed: int) -> list[Question]:
        """See `Source`; two questions on each clip."""
        return questions_of(question_set(n, seed, self.model.config.prompt_length))

    def uncompressed_accuracy(self, n: int, seed: int) -> float:
        """See `Source`."""
        assert isinstance(self.model, zoo.TinyVideo)
        return evaluate(self.model, n, seed)["accuracy"]

    def prepared(self, compressor: Compressor) -> Source:
        """Itself: there is one projector."""
        return self


def _clips(n: int) -> list[Clip]:
    # A seed of its own: neither training nor evaluation has seen these clips.
    return [clip(np.random.default_rng([0x9E0F, i])) for i in range(n)]


def open_family(parts: Parts = "all") -> TinyVideoSource:
    """Read the shipped weights."""
    model = zoo.load()
    config = model.config
    frame = PreprocessRecord(
        size=(config.image, config.image), resample="bicubic", crop="center", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
    )
    return TinyVideoSource(
        kind="builtin",
        name="tiny-video",
        modality="video",
        encoder=GraphSource(
            role="encoder",
            module=zoo.Encoder(model).eval(),
            inputs={"pixel_values": torch.zeros(1, config.frames, 3, config.image, config.image)},
            outputs=("tokens",),
            grid=(config.frames, *config.grid),
        ),
        files=(zoo.WEIGHTS,),
        auto_seam={
            "encoder_output": "projector_input",
            "projector_input": "projector_input",
            "projector_output": "projector_output",
        },
        text_seam="projector_output",
        preprocess=VideoRecord(kind="video", frames=config.frames, frame=frame),
        processor=ProcessorRecord(kind="words", vocabulary=VOCABULARY),
        processor_files={VOCABULARY: json.dumps(WORDS.to_json(), indent=1).encode()},
        has_task=True,
        model=model,
        parts=parts,
        words=WORDS,
        example=("which way did the red circle move ?", "left"),
    )
