"""What a source is: the one interface through which every model reaches the pipeline, wherever it came from."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ...errors import RequestError
from ...graph_passes.compressors.blocks.texts import TEXT
from ...runtimes.bundle.manifest import GenerationRecord, Preprocess, ProcessorRecord, Role, SourceRecord, TextRecord

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

    from ...graph_passes.compressors import Case, Compressor
    from ...graph_passes.insertion.sequence import Step
    from .clip import Clip

Parts = Literal["encoder", "all"]
Kind = Literal["builtin", "checkpoint", "module", "onnx"]
Modality = Literal["image", "video", "audio"]

# Where the source has no modality: guessed from the rank of [B, mels, frames], [B, C, H, W] or [B, T, C, H, W].
_BY_RANK: dict[int, Modality] = {3: "audio", 4: "image", 5: "video"}


@dataclass
class GraphSource:
    """One graph to export.

    Attributes:
        role: encoder, embed, prefill, decode or text.
        module: float32, in eval mode; None for a foreign ONNX file, whose graph exists already.
        inputs: example inputs by role name, which is also the graph's input name; static shapes, B = 1. Torch tensors;
            numpy arrays where `module` is None, because a foreign file is compressed without torch.
        outputs: output role names, which are also the graph's output names, in the order the module returns them.
        grid: of the tokens, where it is known: (height, width), (frames, height, width), or (length,) for sound.
        placeholder: path of a submodule, [B, N, D] -> [B, N, D'], which a compressor that widens tokens replaces. With
            it, the module and its graph can be run and split before the compressor is inserted. Empty where there is
            none.
        merged_rows: whether a merged slot may have the position of the token whose place it inherits, where layers read
            a table of positions. The module then hands it to its layers, or has a method `at`, a context in which they
            take tokens for those at the positions [1, K] that it was given.
        known: N, where tokens that stand for no place of the input are among the others, as the ends of rows are; 0:
            the graph shows where such tokens stand.
    """

    role: Role
    module: nn.Module | None
    inputs: Mapping[str, torch.Tensor | np.ndarray]
    outputs: tuple[str, ...]
    grid: tuple[int, ...] | None = None
    placeholder: str = ""
    merged_rows: bool = False
    known: int = 0


@dataclass(frozen=True)
class Question:
    """One item of a model's task.

    Attributes:
        input: what `Session.encode` takes: an image uint8 [H, W, 3], a video uint8 [T, H, W, 3], or a waveform float32
            [samples].
        prompt: text; empty where the model needs none.
        answer: the right answer.
        content: bool [N], the tokens that the answer depends on: an oracle keeps these first.
    """

    input: np.ndarray
    prompt: str
    answer: str
    content: np.ndarray


@dataclass(frozen=True)
class Answered:
    """An answer of a model's own code.

    Attributes:
        ids: with the one that ends it, where it ended.
        scores: [n, V] float32, what each was chosen by; -inf where an id may not be chosen.
        picks: ``kept_indices_<j>`` -> which tokens are left behind each compressor in the language model.
    """

    ids: list[int]
    scores: np.ndarray
    picks: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass
class Source(ABC):
    """A model that was opened: its graphs, realistic inputs for the proof, and what a bundle records about it.

    Attributes:
        kind: as in the manifest.
        name: short, without a path: tiny-vlm, the folder's name, the file's stem.
        files: the weights, or the ONNX file; `sha256` is made of them.
        origin: the checkpoint folder, or the Python files, that it was opened from. No bundle may overwrite a part of
            these or of `files`.
        encoder: the graph a compressor goes into.
        modality: what the encoder takes; None: see `takes`.
        model_path: the ONNX file of kind ``onnx``, None otherwise.
        auto_seam: the seam kind of a method's paper -> the name of that seam in this model.
        text_seam: the seam whose tokens are in the same space as the rows of `text`; empty without such a graph.
        preprocess: how a picture, a video or a sound becomes the encoder's input, where that is known.
        processor: how text becomes ids.
        processor_files: path inside the bundle -> content.
        has_task: whether right answers are known, so that accuracy can be measured.
        metric: the name of what `score` measures, for tables.
        answer: the encoder's output that is the model's answer, ``embedding`` or ``logits``; empty where a language
            model reads its tokens.
        omitted: which side of the folder's model is left out, and what stands in for it; the first that is said.
        half: fp16 or bf16, where the encoder's file is of that type already.
        plain: the model that this one was `prepared` from, with the weights for all other methods.
        takes_lengths: whether prompts and answers may have other lengths than the default.
        image_size: [height, width] of its pictures, where another may be asked for; else None.
        clip: the videos that its graphs were asked for; None: it takes none, or only its own.
        window: seconds of sound that the encoder takes, where they are not the model's own.
        windows: what the encoder's layers do that needs every token at its place, as a clause; empty where nothing.
        notes: what a user must know of the model, such as what was left out.
        inner: the compressors between the layers of its language model, upstream first; see `inside`.
        inner_bias: whether layers behind them add log(sizes) of what they merge.
        by_position: whether prefill reads merged tokens at the positions of all that is in them; see `zoo.members`.
    """

    kind: Kind
    name: str
    encoder: GraphSource
    modality: Modality | None = None
    files: tuple[Path, ...] = ()
    origin: tuple[Path, ...] = ()
    model_path: Path | None = None
    auto_seam: dict[str, str] = field(default_factory=dict)
    text_seam: str = ""
    preprocess: Preprocess | None = None
    processor: ProcessorRecord = field(default_factory=ProcessorRecord)
    processor_files: dict[str, bytes] = field(default_factory=dict)
    has_task: bool = False
    metric: str = "answers right"
    answer: str = ""
    omitted: str = ""
    half: str = ""
    plain: Source | None = None
    takes_lengths: bool = False
    image_size: tuple[int, int] | None = None
    clip: Clip | None = None
    window: float | None = None
    windows: str = ""
    notes: tuple[str, ...] = ()
    inner: tuple[Step, ...] = ()
    inner_bias: bool = False
    by_position: bool = False

    @property
    def takes(self) -> Modality | None:
        """The modality; where it is not set, guessed from the rank of the encoder's input, or None."""
        return self.modality or _BY_RANK.get(len(next(iter(self.encoder.inputs.values())).shape))

    @property
    def images(self) -> int:
        """That a prompt of the language graphs may have."""
        return 1

    @cached_property
    def sha256(self) -> str | None:
        """Hash of the one file, or of the hashes of several in the order of their names; None without files.

        Computed on first use: a 7B folder takes ten seconds.
        """
        hashes = []
        for file in sorted(self.files, key=lambda file: file.name):
            digest = hashlib.sha256()
            with file.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
            hashes.append(digest)
        if len(hashes) > 1:
            return hashlib.sha256(b"".join(each.digest() for each in hashes)).hexdigest()
        return hashes[0].hexdigest() if hashes else None

    @abstractmethod
    def real_inputs(self, n: int) -> list[dict[str, np.ndarray]]:
        """`n` realistic inputs of the encoder, by role, each with B = 1; the same ones on every call."""

    def questions(self, n: int, seed: int) -> list[Question]:
        """`n` items of the task, the same ones for the same `seed`, where `has_task`."""
        return []

    def score(self, said: Sequence[str], answers: Sequence[str]) -> float:
        """The score of the model's answers `said`, at best 1; by default the share that match in full."""
        return sum(one == right for one, right in zip(said, answers, strict=True)) / len(answers)

    def uncompressed_accuracy(self, n: int, seed: int) -> float:
        """Score of the uncompressed module on the same questions, where `has_task`."""
        return float("nan")

    def prepared(self, compressor: Compressor) -> Source:
        """This model with the weights that `compressor` needs: itself, unless it has other weights for that method.

        Raises:
            RequestError: it has such weights, but for other parameters.
        """
        return self

    @property
    def joins(self) -> str:
        """What this model does behind its encoder's layers that needs every token at its place, as a clause.

        Empty where tokens may be removed between the layers, or where the graph alone decides that.
        """
        return ""

    @property
    def whole_preprocess(self) -> Preprocess | None:
        """`preprocess` of the model that this one is a window of; its own where it is none."""
        return self.preprocess

    def smaller_encoder(self, grid: tuple[int, ...]) -> GraphSource | None:
        """The uncompressed encoder, over the same weights, for smaller pictures, of which it gives this grid of tokens.

        It has the inputs and outputs of `encoder`, and a module in PyTorch. Its tokens are those of a smaller picture:
        whoever gives them to the language graphs says at which places of the whole grid they stand.

        Args:
            grid: (height, width), at most that of `encoder`.

        Returns:
            None where the model takes pictures of one size, or not of that one.
        """
        return None

    def windowed(self, seconds: float) -> Source:
        """This model with an encoder for sounds of another length, over the same weights.

        Raises:
            RequestError: its encoder takes no sound, or none of that length.
        """
        raise RequestError(
            f"{self.name} has no window of sound that could be shorter",
            fix="Leave --window out: it is for recognisers such as Whisper, and for Qwen3-ASR and Granite-Speech.",
        )

    def inside(self, steps: Sequence[Step], *, size_bias: bool) -> Source:
        """This model with compressors between the layers of its language model, over the same weights.

        Args:
            steps: at seams ``decoder_layer:<i>``, upstream first.
            size_bias: see `inner_bias`.

        Raises:
            RequestError: its language model cannot have them, or not there.
        """
        raise RequestError(
            f"seam {steps[0].seam} is a place in a language model, and {self.name} has none that can be parted there",
            fix="Give the folder of a vision-language checkpoint, or take a seam of its encoder: "
            "--seam projector_output.",
        )

    def read_by_position(self) -> Source:
        """This model with a prefill that reads merged tokens at the positions of all that is in them.

        Raises:
            RequestError: its language graphs cannot, or there are none.
        """
        raise RequestError(
            f"--size-bias positions is read by a prefill whose tokens have positions among words, and the graphs of "
            f"{self.name} that are asked for have none",
            fix="Leave --size-bias out: log(size) is added wherever the graphs read merged tokens.",
        )

    @property
    def between_layers(self) -> str:
        """The seams in its language model, or why there are none; empty where there is no language model."""
        return ""

    def inner_cases(self, keep: int) -> list[Case]:
        """Of the compressors in `inner`, where K = `keep` tokens enter the language model."""
        return []

    def language(self, keep: int) -> list[GraphSource]:
        """The graphs embed, prefill and decode for K kept tokens; none where only the encoder is exported."""
        return []

    def generation(self, keep: int) -> GenerationRecord | None:
        """The manifest's generation record for K kept tokens; None where `language` returns no graphs."""
        return None

    def proof_prompt(self, images: int | None = None) -> list[int]:
        """The ids of the prompt that `own_answer` continues; None: with as many images as a prompt may have."""
        return []

    def own_answer(
        self, encoded: Mapping[str, np.ndarray], token_bias: np.ndarray, limit: int, images: int | None = None
    ) -> Answered | None:
        """What the model's own code, greedy, answers to `proof_prompt`; None where that code is our graphs'.

        Args:
            encoded: what the encoder and its compressor give: tokens [1, K, D], kept_indices [1, K]; with several
                images those of each, one after the other. With `inner` also what its graph kept behind each.
            token_bias: [1, K] float32; likewise.
            limit: at most so many ids.
            images: see `proof_prompt`.
        """
        return None

    def let_go(self) -> None:  # noqa: B027
        """Give back the memory of the language model; what needs it next reads its weights again."""

    def text(self, length: int) -> GraphSource | None:
        """The graph text for prompts of up to `length` ids; None where `text_seam` is empty."""
        return None

    def text_record(self) -> TextRecord | None:
        """The manifest's record of the input of `text`."""
        return None

    def real_prompts(self, n: int, length: int) -> list[list[int]]:
        """`n` realistic prompts of at most `length` ids, where there is `text`; the same ones on every call."""
        return []

    def seam_for(self, compressor: Compressor) -> str:
        """The seam that ``auto`` means: `text_seam` for a compressor that reads text, otherwise its paper's."""
        if self.text_seam and TEXT in compressor.signals():
            return self.text_seam
        wanted = compressor.method.seam
        return self.auto_seam.get(wanted, wanted)

    def record(self) -> SourceRecord:
        """The manifest's entry."""
        return SourceRecord(kind=self.kind, name=self.name, sha256=self.sha256)
