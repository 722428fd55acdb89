"""The manifest of a bundle, and the generation contract that its graphs follow.

A bundle is a folder that holds everything a consumer needs and nothing about the machine that made it:

    manifest.json   encoder.onnx  encoder.plugin.onnx  encoder.onnx.data   embed / prefill / decode likewise
    processor/      parity.json   proof.npz   report.html

Paths are relative, with forward slashes, and never leave the folder; no file is a symbolic link, because ONNX Runtime
refuses links. The first variant is the default one; the graphs of others carry their names (encoder.<variant>.onnx) and
read the same data files. A folder with a `.tokexport-commit` inside is in the middle of being replaced (see
atomic_replace.py): `open_bundle` refuses it, and `tokexport verify` or a new export finishes what the same user began
on the same machine.

Graph roles and their input and output tensors (roles on the left; `GraphRecord.inputs` and `.outputs` map a role to
the graph's own tensor name, because a foreign file's names are never changed). B is 1 unless a shape says otherwise.

    encoder   pixel_values [B, 3, H, W], of a video or some of its frames [B, T, 3, H, W], of a picture and its
              tiles [B, 1 + tiles, 3, H, W], or input_features [B, mels, frames] float32
              -> tokens [B, K, D], kept_indices [B, K] int64, sizes [B, K] float32, assignment [B, N] int64
              Of an image tower alone it further gives embedding [B, E], or logits [B, classes], float32.
              `compression` lists several compressors in the order in which tokens pass them; kept_indices, sizes and
              assignment refer to the N tokens that reach the first.
    embed     input_ids [B, P] int64, tokens [B, K, D] -> inputs_embeds [B, P + K, D]
              P = prompt_length. The image span is at the fixed offset image_span[0], inserted by Concat:
              [ids before the offset | K visual tokens | the other ids, right padded with `pad`].
    prefill   inputs_embeds [B, P + K, D], kept_indices [B, K] int64, token_bias [B, K] float32, last_index [B] int64
              -> logits [B, V] of the token at last_index, present_key_<i>, present_value_<i> [B, H, capacity_i, d]
    decode    input_ids [B, 1] int64, write_index [B] int64, token_bias [B, K] float32, past_key_<i>, past_value_<i>
              [B, H, capacity_i, d] -> logits [B, V], new_key_<i>, new_value_<i> [B, H, 1, d]

Where a method selects by the question, the encoder has a further input `text` [B, L, D], and there is the graph

    text      input_ids [1, L] int64 -> text [1, L, D], in the dtype of the tokens
              The prompt's ids, `bos` included, right padded with `pad` of the variant's `text` record. A row is the
              embedding of its id in the space of the tokens at the seam; zeros where the id is in `blank`.

The encoder's outputs then depend on the question. In a bundle without this graph, exported with --parts encoder, the
caller provides the text.

Where `attention` is ``cross`` (Whisper and models like it), the tokens are no part of the text: there is no embed, and

    prefill   input_ids [B, P] int64, tokens [B, K, D], token_bias [B, K] float32, last_index [B] int64
              -> logits [B, V] of the token at last_index, present_key_<i>, present_value_<i> [B, H, capacity_i, d],
              cross_key_<i>, cross_value_<i> [B, H, K, d], which decode reads and never changes
    decode    input_ids [B, 1] int64, write_index [B] int64, token_bias [B, K] float32, past_key_<i>, past_value_<i>,
              cross_key_<i>, cross_value_<i> -> logits [B, V], new_key_<i>, new_value_<i>

There `token_bias` is added to the logits of cross-attention in every decoder block. The encoder adds position
embeddings to the tokens, so kept_indices are no input. image_span is (0, K), and the capacity is P + max_new_tokens.
last_index and write_index count in the text alone: the last word of n prompt ids is at n - 1.

`token_bias` is log(sizes), or zeros with the size bias off. It is added to the attention logits of the K visual keys in
every decoder block, in addition to the causal mask. Positions follow the kept tokens: visual slot k has position
offset + kept_indices[k], text after the image has the position of the uncompressed sequence, and a decoded token has
write_index + N - K. last_index and write_index count in the compressed sequence: the last word of n prompt ids is at
n + K - 1. A prompt has at least image_span[0] ids, `bos` included. Generation stops at an `eos` id, which is not part
of the answer, or after max_new_tokens.

The caches are the caller's: buffers of a fixed capacity per layer, P + K + max_new_tokens, with zeros behind P + K, in
which prefill's present_key_<i> and present_value_<i> are what decode first reads as past_key_<i> and past_value_<i>.
Decode attends to the slots below write_index and to the token that it is given, whose key and value it returns; the
caller writes them at slot write_index of its buffers before the next step. The first decoded token goes to
last_index + 1, over the padding.

That is schema 2. In bundles of schema 1.x, which are still read and run, decode returns whole caches instead,
present_key_<i> and present_value_<i> [B, H, capacity_i, d], with the token written at write_index.

Schema 2.1 adds `llm_weights` to a variant: the matrices of its language graphs are int8 or int4.
Schema 2.2 adds states, of the layers of hybrid models that do not attend; their kv_capacity is 0. Prefill gives
state_<kind>_<i>, decode takes it, and returns new_state_<kind>_<i> of the same shape, by which the caller replaces it
whole. A state is [B, ...] float32 in every precision, and has read what lies up to last_index: padding does not change
it. Kinds are ``conv``, the last columns that a convolution read, and ``linear``, the matrices of a linear attention.
In prefill a linear attention counts a token e^token_bias times, by one update; a convolution reads it once.

Schema 2.3 adds prompts with up to I = `images` of the generation record. The encoder runs for each, and embed, prefill
and decode take its outputs for all, one image after the other (K becomes I K above; in the place of those that are not
there any finite values), and a further input image_starts [B, I] int64: where the tokens of each image begin in the
compressed sequence, ascending; for one that is not there the largest capacity. Any ids may stand between images. Text
has moved by N - K for each image before it, and the slots of an image count from where it begins in the uncompressed
sequence. The last word of n prompt ids about i images, their places left out, is at n + i K - 1. Where `preprocess` is
a record of videos, they are the frames of one, or every so many of them: as many as the encoder's input has.

Schema 2.4 adds `rebuilt` of a compression record: inside the encoder its graph computes with fewer tokens, and all of
them leave its layers. A runtime reads nothing of it: kept_indices, sizes and assignment are about what leaves the
encoder, as ever.

Schema 2.5 adds compressors between the layers of the language model, numbered j from 1; their record says graph
``prefill`` and `span`, where their tokens stand in the sequence. Layers behind compressor j see K_j tokens: the
capacity of their caches is P + K_j + max_new_tokens. Prefill gives kept_indices_<j> [B, K_j] int64, which of the N
tokens are left behind it, and token_bias_<j> [B, K_j] float32, which decode takes; neither where K_j is 0. last_index
and write_index count in the sequence that enters the first layer, and the graphs subtract: the slot of a layer's caches
is write_index less the tokens that were removed in front of it, which is the first layer's capacity less its own.
Of up to I = `images` each is compressed by itself: K_j is of each, and I K_j stands for K_j above, in kept_indices_<j>
and token_bias_<j> one image after the other, with any values in the place of those that are not there. About n images
the slot is write_index less n / I of that difference. image_starts counts where write_index does.

Schema 2.6 adds `by_position` of the generation record: prefill further takes assignment [B, N] int64, as the encoder
gives it. What asks in prefill then reads each slot once for every token in it, at that token's position (offset and
its number), and slots and ids up to their own position: N keys for K slots, whose weights are token_bias less log of
how many. A token with -1 is not read, but at the place of a slot. Caches and decode are those of K slots.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from ...errors import invalid
from .compression_records import CompressionRecord as CompressionRecord
from .compression_records import RebuiltRecord as RebuiltRecord
from .compression_records import SeamRecord as SeamRecord
from .decode_contract import check_caches, check_inner, check_states, has_states
from .export_records import FileRecord as FileRecord
from .export_records import Parity
from .export_records import SourceRecord as SourceRecord
from .language_records import LONGEST_PROMPT, GenerationRecord, TextRecord
from .language_records import ProcessorRecord as ProcessorRecord
from .language_records import PromptRecord as PromptRecord
from .language_records import SpeechRecord as SpeechRecord
from .language_records import WeightsRecord as WeightsRecord
from .media_records import LogMelRecord as LogMelRecord
from .media_records import Preprocess as Preprocess
from .media_records import PreprocessRecord as PreprocessRecord
from .media_records import VideoRecord as VideoRecord
from .media_records import WaveformRecord as WaveformRecord
from .schemas import IMAGES, INNER, POSITION, REBUILT, STATES, WEIGHTS
from .schemas import READ as READ
from .schemas import SCHEMA as SCHEMA
from .schemas import newest as newest
from .strict import LARGEST, BundlePath, FileName, Strict
from .strict import Role as Role

MANIFEST = "manifest.json"

# The prefix of hidden files and folders inside a bundle or beside it; then those of a pending replacement, and of the
# staging folder.
OURS = ".tokexport-"
PENDING = OURS + "commit"
BUILDING = OURS + "build-"

# What generation and the question need of the graph of a role: inputs, outputs.
_NEEDED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "text": (("input_ids",), ("text",)),
    "embed": (("input_ids", "tokens"), ("inputs_embeds",)),
    "prefill": (("token_bias", "last_index"), ("logits",)),
    "decode": (("input_ids", "write_index", "token_bias"), ("logits",)),
}

Precision = Literal["fp32", "fp16", "bf16"]
Form = Literal["portable", "plugin", "inlined"]
DType = Literal["float32", "float16", "bfloat16", "float64", "int64", "int32", "int8", "uint8", "bool"]


class TensorRecord(Strict):
    """A graph input or output: its own name in the graph, dtype and shape; -1 is a dynamic axis of a foreign graph."""

    name: str
    dtype: DType
    shape: Annotated[list[Annotated[int, Field(ge=-1, le=LARGEST)]], Field(max_length=16)]


class GraphRecord(Strict):
    """One role: its files by form, its precision, and its inputs and outputs by role."""

    forms: dict[Form, BundlePath] = Field(min_length=1)
    precision: Precision
    inputs: dict[str, TensorRecord]
    outputs: dict[str, TensorRecord]


class DeviceRecord(Strict):
    """The device that a variant was made for, and whose rules it was checked against.

    Attributes:
        name: of the profile in `devices`.
        runtime: ``tensorrt``.
        version: of the runtime.
        forms: by role, the forms that no rule of that version forbids.
        memory: bytes that all graphs together need at least.
    """

    name: FileName
    runtime: Literal["tensorrt"]
    version: str
    forms: dict[Role, list[Form]]
    memory: int = Field(ge=0)


class Variant(Strict):
    """One compressed model: its compressors, its graphs by role, and the device it was made for.

    Its name is part of the names of its engine files.

    Attributes:
        preprocess: where its encoder takes another input than that of the manifest's record: a shorter sound.
        llm_weights: where those of embed, prefill and decode are quantised; schema 2.1.
    """

    name: FileName
    compression: list[CompressionRecord]
    graphs: dict[Role, GraphRecord]
    generation: GenerationRecord | None = None
    text: TextRecord | None = None
    device: DeviceRecord | None = None
    preprocess: Preprocess | None = None
    llm_weights: WeightsRecord | None = None

    @property
    def grid(self) -> tuple[int, ...] | None:
        """Of the tokens that kept_indices and assignment are about; None where it is not known."""
        found = self.compression[0].seam.grid
        for before, record in zip((None, *self.compression), (*self.compression, None)):
            if before is not None and before.rebuilt:
                found = record.seam.grid if record is not None else before.rebuilt.grid
        return tuple(found) if found else None

    @property
    def tells_sizes(self) -> bool:
        """Whether the language graphs are told log(size); a compressor inside them adds its own there."""
        return any(record.size_bias for record in self.compression if record.seam.graph == "encoder")

    @property
    def oldest_schema(self) -> str:
        """That says all of it."""
        if self.generation and self.generation.by_position:
            return POSITION
        if any(record.seam.graph == "prefill" for record in self.compression):
            return INNER
        if any(record.rebuilt for record in self.compression):
            return REBUILT
        if self.generation and self.generation.images:
            return IMAGES
        if has_states(self.graphs):
            return STATES
        return WEIGHTS if self.llm_weights else SCHEMA

    @model_validator(mode="after")
    def _text_is_whole(self) -> Variant:
        if ("text" in self.graphs) != (self.text is not None):
            raise ValueError("the graph `text` and the record `text` go together, and one is missing")
        return self

    @model_validator(mode="after")
    def _graphs_are_whole(self) -> Variant:
        if "encoder" in self.graphs and not self.graphs["encoder"].inputs:
            raise ValueError("the graph `encoder` has no input")
        if self.generation and "encoder" in self.graphs and "tokens" not in self.graphs["encoder"].outputs:
            raise ValueError("the graph `encoder` has no output `tokens`, which generation reads")
        for role, (inputs, outputs) in _NEEDED.items():
            graph = self.graphs.get(role)  # type: ignore[call-overload]
            if role != "text" and self.generation and self.generation.images:
                inputs = (*inputs, "image_starts")
            if role == "prefill" and self.generation and self.generation.by_position:
                inputs = (*inputs, "assignment")
                if not self.tells_sizes:
                    raise ValueError("`by_position` is of merged tokens, and no compressor tells their sizes")
            lacking = (
                [] if graph is None else [*({*inputs} - graph.inputs.keys()), *({*outputs} - graph.outputs.keys())]
            )
            if lacking:
                raise ValueError(f"the graph `{role}` has no {sorted(lacking)[0]!r}")
        if "text" in self.graphs:
            shape = self.graphs["text"].inputs["input_ids"].shape
            if len(shape) != 2 or not 1 <= shape[1] <= LONGEST_PROMPT:
                raise ValueError(f"input_ids of the graph `text` is {shape}, and not [1, L]")
        return self


class Manifest(Strict):
    """manifest.json."""

    schema_: str = Field(alias="schema", default=SCHEMA)
    tokexport: str
    source: SourceRecord
    files: dict[BundlePath, FileRecord]
    variants: list[Variant] = Field(min_length=1)
    preprocess: Preprocess | None = None
    processor: ProcessorRecord = ProcessorRecord()
    parity: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _windows_are_told_the_same(self) -> Manifest:
        # A long sound is read by several variants: what is heard by one is asked of the next.
        spoken = {one.name: one.generation.speech for one in self.variants if one.generation and one.generation.speech}
        told = {name: record.told() for name, record in spoken.items()}
        for name, one in told.items():
            if one != next(iter(told.values())):
                raise ValueError(f"the record of speech of variant {name} is not that of {next(iter(told))}")
        return self

    @model_validator(mode="after")
    def _parity_can_be_read(self) -> Manifest:
        try:
            Parity.model_validate(self.parity)
        except ValidationError as error:
            raise ValueError(f"what `parity` records is {invalid(error)}") from None
        return self

    @model_validator(mode="after")
    def _decode_follows_the_contract(self) -> Manifest:
        for variant in self.variants:
            check_caches(variant.graphs, self.schema_)
            check_states(variant.graphs)
            inner = [record.tokens_out for record in variant.compression if record.seam.graph == "prefill"]
            record = variant.generation
            check_inner(variant.graphs, inner, record.kv_capacity if record else [], (record and record.images) or 1)
        return self

    def preprocess_of(self, variant: Variant) -> Preprocess | None:
        """How a picture, a video or a sound becomes the input of a variant's encoder; None: the bundle does not say."""
        return variant.preprocess or self.preprocess

    def graph_files(self) -> set[str]:
        """The file of every graph in every form."""
        graphs = (graph for variant in self.variants for graph in variant.graphs.values())
        return {name for graph in graphs for name in graph.forms.values()}

    def named_files(self) -> Iterator[str]:
        """Every path that a graph or the processor needs; `files` must list all of them."""
        yield from sorted(self.graph_files())
        yield from self.processor.files

    def to_json(self) -> str:
        """The text of manifest.json."""
        data = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        return json.dumps(data, indent=2, allow_nan=False) + "\n"


def json_schema() -> dict[str, Any]:
    """The JSON schema of manifest.json, published beside this file."""
    schema = Manifest.model_json_schema(by_alias=True)
    # The default is a convenience of the Python class; a file without its schema version cannot be read.
    schema["required"] = ["schema", *schema["required"]]
    return schema


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=2))
