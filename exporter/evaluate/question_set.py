"""A model's prompts about inputs, through exported graphs in ONNX Runtime with any compressor in them.

What one compressor shares with the next is done once: the encoder up to the seam, cut free, runs once for each distinct
input, at B = 1 as in a bundle. What reads a text is run from the seam on for each question.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...errors import RequestError
from ...graph_passes.compressors import OUTPUTS, Compressor, make
from ...graph_passes.compressors.blocks.texts import TEXT
from ...graph_passes.insertion.insert import Inserted, insert
from ...graph_passes.insertion.sequence import Step, insert_steps
from ...runtimes.media.encoder_input import encoder_input
from ...runtimes.ort.graph import Run, ort_runner
from ...runtimes.tokenizer_file import TokenizerFile
from ...runtimes.words import Words
from ..proof.parity import between, value_names
from ..sources.texts import question_texts, text_input
from .answers import Encoded, Language, side_by_side

if TYPE_CHECKING:
    import onnx_ir as ir

    from ...graph_passes.seams.seam import Seam
    from ..sources.source import Question, Source


@dataclass(frozen=True)
class _Tail:
    """An encoder with a compressor, and the part of it downstream.

    Attributes:
        whole: the encoder.
        before: the tokens that the compressor reads.
        after: those that it gives.
        assignment: the compressor's output of that name.
        result: the tokens that the encoder gives.
        run: `inputs` -> `result`; None: they are the same.
        inputs: of the part: `after`; `before` where there is a prefix or tokens are rebuilt, and then `assignment`.
        leaving: how many tokens leave the encoder.
    """

    whole: ir.Model
    before: str
    after: str
    assignment: str
    result: str
    run: Run | None
    inputs: Collection[str]
    leaving: int


class QuestionSet:
    """Prompts about inputs, for encoders that differ in nothing but their compressor.

    Args:
        source: of the model.
        encoder: its uncompressed encoder graph.
        inputs: the encoder's main input, each with B = 1.
        of: [Q], the input that each prompt is about.
        prompts: Q texts.
    """

    def __init__(
        self, source: Source, encoder: ir.Model, inputs: list[np.ndarray], of: Sequence[int], prompts: Sequence[str]
    ) -> None:
        self.source, self.encoder, self.inputs, self.of = source, encoder, inputs, np.asarray(of, np.int64)
        self._main = next(iter(source.encoder.inputs))
        self._seen: dict[tuple[str, str], list[np.ndarray]] = {}
        self._texts: dict[int, ir.Model] = {}
        self._tails: dict[tuple[str, int, bool], _Tail] = {}
        vocabulary = source.processor.vocabulary
        self._words = Words.from_json(json.loads(source.processor_files[vocabulary])) if vocabulary else None
        self.prompts = prompts_of(source, prompts, self._words)

    @classmethod
    def of_questions(cls, source: Source, encoder: ir.Model, questions: Sequence[Question]) -> QuestionSet:
        """An exam of questions; those about one input share it."""
        first: dict[bytes, int] = {}
        inputs: list[np.ndarray] = []
        of: list[int] = []
        for question in questions:
            number = first.setdefault(question.input.tobytes(), len(first))
            if number == len(inputs):
                inputs.append(encoder_input(question.input, source.preprocess, Path(source.name)))
            of.append(number)
        return cls(source, encoder, inputs, of, [question.prompt for question in questions])

    def encode(
        self, seam: Seam, compressor: Compressor, keep: int, *, size_bias: bool = True, rebuild: bool = False
    ) -> Encoded:
        """Run the encoder with `compressor` at `seam`, from the seam on.

        Raises:
            RequestError, GraphError: as `put` does.
        """
        model = self.encoder.clone()
        inserted = put(model, seam, compressor, keep, size_bias=size_bias, rebuild=rebuild)
        signals = {name: read.value for name, read in inserted.reads.items()}
        feeds = self._read(model, seam, {"tokens": inserted.tokens_in, **signals})
        if TEXT in compressor.signals():
            feeds = self._asked(feeds, self._text_graph(model))
        return self._encoded(between(model, list(feeds), self._ends(model, inserted)), feeds, inserted, size_bias)

    def whole(
        self, model: ir.Model, inserted: Inserted, *, size_bias: bool = True, text: ir.Model | None = None
    ) -> Encoded:
        """Run a compressed encoder graph as it is; where it reads one, on what the graph `text` gives."""
        if text is None:
            return self._encoded(model, {self._main: self.inputs}, inserted, size_bias)
        seen = dict.fromkeys([inserted.tokens_in, *(read.value for read in inserted.reads.values())])
        found = self._run(between(model, [self._main], seen), {self._main: self.inputs})
        feeds = self._asked({name: [result[name] for result in found] for name in seen}, text)
        return self._encoded(between(model, list(feeds), self._ends(model, inserted)), feeds, inserted, size_bias)

    def select(self, seam: Seam, kept: np.ndarray, *, merge: bool = False, rebuild: bool = False) -> Encoded:
        """Keep tokens that are chosen outside the graph.

        Args:
            seam: where.
            kept: ascending positions int64: [Q, K], for each question its own, or [K] for all.
            merge: average every other token into the nearest kept one.
            rebuild: put all back at their places behind the encoder's last layer.
        """
        shared = kept.ndim == 1
        kept = np.tile(kept, (len(self.inputs), 1)) if shared else kept
        at = np.arange(len(self.inputs)) if shared else self.of
        tail = self._tail(seam, kept.shape[1], rebuild)
        heads = self._read(tail.whole, seam, {"tokens": tail.before})[tail.before]
        combine = merged if merge else selected
        made = [combine(_with_batch(heads[number])[0, seam.prefix :], rows) for number, rows in zip(at, kept)]
        gathered = [content[None] for content, _, _ in made]
        feeds = {tail.after: gathered}
        if tail.before in tail.inputs:
            feeds[tail.before] = [heads[number] for number in at]
        if tail.assignment in tail.inputs:
            feeds[tail.assignment] = [assignment[None] for _, _, assignment in made]
        # Without a prefix the compressor's tokens may be the encoder's result.
        tokens = gathered
        if tail.run is not None:
            tokens = [result[tail.result] for result in self._each(tail.run, tail.inputs, feeds)]
        sizes, assignment = (np.stack(part) for part in list(zip(*made))[1:])
        if rebuild:
            kept = assignment = np.tile(np.arange(tail.leaving), (len(made), 1))
            sizes = np.ones(kept.shape, np.float32)
        of = self.of if shared else np.arange(len(kept))
        return Encoded(np.concatenate([_with_batch(one) for one in tokens]), kept, sizes, assignment, of)

    def answer(self, encoded: Encoded, language: Language) -> list[str]:
        """The answer to each prompt; its ids where the model has no words of its own: they are equal where words are.

        Raises:
            GraphError: the graphs return NaN.
        """
        said = language.answer(encoded, self.prompts)
        return [self._words.detokenize(ids) if self._words else " ".join(map(str, ids)) for ids in said]

    def _read(self, model: ir.Model, seam: Seam, names: Mapping[str, str]) -> dict[str, list[np.ndarray]]:
        """What stands at a seam, tokens and signals, for each input, by the value's name in `model`."""
        new = {what: name for what, name in names.items() if (seam.tensor, what) not in self._seen}
        if new:
            found = self._run(between(model, [self._main], new.values()), {self._main: self.inputs})
            for what, name in new.items():
                self._seen[seam.tensor, what] = [result[name] for result in found]
        return {name: self._seen[seam.tensor, what] for what, name in names.items()}

    def _tail(self, seam: Seam, keep: int, rebuild: bool) -> _Tail:
        """What follows a compressor that keeps so many at a seam; choices that differ in nothing else share it."""
        key = seam.tensor, keep, rebuild
        if key not in self._tails:
            whole = self.encoder.clone()
            inserted = put(whole, seam, make("uniform"), keep, size_bias=False, rebuild=rebuild)
            before, after = inserted.tokens_in, compressor_node(whole, inserted).outputs[0].name or ""
            assignment = inserted.node_outputs["assignment"]
            fed = [after, *([before] if seam.prefix or rebuild else []), *([assignment] if rebuild else [])]
            result = outputs(whole, inserted)["tokens"]
            part = between(whole, fed, [result]) if result != after else None
            run = ort_runner(part, threads=1) if part else None
            inputs = value_names(part.graph.inputs) if part else []
            self._tails[key] = _Tail(whole, before, after, assignment, result, run, inputs, inserted.leaving)
        return self._tails[key]

    def _asked(self, feeds: Mapping[str, list[np.ndarray]], text: ir.Model) -> dict[str, list[np.ndarray]]:
        """What stands at a seam for each question, with its text."""
        rows = {name: [values[at] for at in self.of] for name, values in feeds.items()}
        return {**rows, TEXT: question_texts(self.source, text, self.prompts)}

    def _text_graph(self, model: ir.Model) -> ir.Model:
        """The source's graph text, for an encoder that reads one."""
        from ..sources.torch_export import export_graph

        value = text_input(model)
        assert value is not None and value.shape is not None and isinstance(value.shape[1], int)
        length = value.shape[1]
        if length not in self._texts:
            graph = self.source.text(length)
            assert graph is not None, "a method that reads text is asked of a source that has one"
            self._texts[length] = export_graph(graph)
        return self._texts[length]

    def _encoded(
        self, model: ir.Model, feeds: Mapping[str, list[np.ndarray]], inserted: Inserted, size_bias: bool
    ) -> Encoded:
        found = self._run(model, feeds)
        names = outputs(model, inserted)
        parts = {part: np.concatenate([result[name] for result in found]) for part, name in names.items()}
        parts["tokens"] = np.concatenate([_with_batch(result[names["tokens"]]) for result in found])
        sizes = parts["sizes"] if size_bias else np.ones_like(parts["sizes"])
        # With a text there is a row for each question, without one for each input.
        of = np.arange(len(sizes)) if TEXT in feeds else self.of
        answer = np.concatenate([result[self.source.answer] for result in found]) if self.source.answer else None
        return Encoded(parts["tokens"], parts["kept_indices"], sizes, parts["assignment"], of, answer)

    def _ends(self, model: ir.Model, inserted: Inserted) -> list[str]:
        """The names of the outputs that are read."""
        return [*outputs(model, inserted).values(), *([self.source.answer] if self.source.answer else [])]

    def _run(self, model: ir.Model, feeds: Mapping[str, list[np.ndarray]]) -> list[dict[str, np.ndarray]]:
        return self._each(ort_runner(model, threads=1), value_names(model.graph.inputs), feeds)

    def _each(
        self, run: Run, inputs: Collection[str], feeds: Mapping[str, list[np.ndarray]]
    ) -> list[dict[str, np.ndarray]]:
        rows, count = dict(feeds), len(next(iter(feeds.values())))
        if self._main in inputs and self._main not in rows:
            # Where a path goes around the cut, the rest of the encoder reads its input again.
            rows[self._main] = self.inputs if count == len(self.inputs) else [self.inputs[at] for at in self.of]
        return side_by_side(lambda i: run({name: values[i] for name, values in rows.items()}), range(count))


def prompts_of(source: Source, texts: Sequence[str], words: Words | None = None) -> list[list[int]]:
    """The ids of prompts as the model is asked them; none of a model that answers nothing.

    Args:
        source: of the model.
        texts: each a question; of a recogniser, which is asked nothing, they say how many there are.
        words: of a model with words of its own.

    Raises:
        RequestError: a text that the model cannot read, or a model that takes ids alone.
    """
    generation, file = source.generation(1), source.processor.tokenizer
    if words is not None:
        return [words.prompt(text) for text in texts]
    if generation is None or generation.attention == "cross" or file is None:
        return [spoken] * len(texts) if (spoken := source.proof_prompt()) else []
    if generation.prompt is None:
        raise RequestError(
            f"{source.name} has no chat template that could be followed, so it cannot be asked a question here",
            fix="Add --parts encoder: the encoder's output tokens are compared. Or add the chat_template.jinja of the "
            "model to its folder.",
        )
    reader = TokenizerFile(source.processor_files[file], Path(file), generation)
    ids = {text: reader.prompt(text) for text in dict.fromkeys(texts)}
    return [ids[text] for text in texts]


def _with_batch(tokens: np.ndarray) -> np.ndarray:
    """Tokens [1, N, D], also of an encoder without a batch axis."""
    return tokens if tokens.ndim == 3 else tokens[None]


def selected(tokens: np.ndarray, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens [K, D], sizes [K] and assignment [N] where tokens [N, D] are kept at kept [K], and the others lost."""
    assignment = np.full(len(tokens), -1, np.int64)
    assignment[kept] = np.arange(len(kept))
    return tokens[kept], np.ones(len(kept), np.float32), assignment


def merged(tokens: np.ndarray, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `selected`, but every other token is averaged into the nearest kept one in L2, the lowest among equals."""
    distance = np.square(tokens[:, None].astype(np.float32) - tokens[kept][None]).sum(2)
    assignment = distance.argmin(1)
    assignment[kept] = np.arange(len(kept))
    members = assignment == np.arange(len(kept))[:, None]
    sizes = members.sum(1, dtype=np.float32)
    return (members @ tokens / sizes[:, None]).astype(tokens.dtype), sizes, assignment


def put(
    model: ir.Model, seam: Seam, compressor: Compressor, keep: int, *, size_bias: bool = True, rebuild: bool = False
) -> Inserted:
    """`insert` one compressor, with its tokens put back at their places behind the encoder's last layer on request.

    Raises:
        RequestError, GraphError: as `insert`, or `sequence.insert_steps`.
    """
    if not rebuild:
        return insert(model, seam, compressor, keep, size_bias=size_bias)
    return insert_steps(model, [Step(compressor, None, keep, seam.name, rebuild=True)], [seam], size_bias=size_bias)


def compressor_node(model: ir.Model, inserted: Inserted) -> ir.Node:
    """The compressor in a graph that `insert` changed."""
    return next(node for node in model.graph if node.name == inserted.node_name)


def outputs(model: ir.Model, inserted: Inserted) -> dict[str, str]:
    """The graph's outputs by what they are: tokens, its own first one, and those that `insert` added."""
    own = next(name for name in value_names(model.graph.outputs) if name not in inserted.outputs.values())
    return {"tokens": own, **{part: inserted.outputs[part] for part in OUTPUTS[1:]}}
