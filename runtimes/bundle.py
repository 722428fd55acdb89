"""The manifest of a bundle, and the generation contract its graphs keep.

A bundle is a folder that holds everything a consumer needs and nothing about the machine that made it:

    manifest.json   encoder.onnx  encoder.plugin.onnx  encoder.onnx.data   embed / prefill / decode likewise
    processor/      parity.json

Graph roles and the tensors they take and give (roles on the left; `GraphRecord.inputs` and `.outputs` map a role to the
graph's own tensor name, because a foreign file's names are never changed). B is 1 unless a shape says otherwise.

    encoder   pixel_values [B, 3, H, W] or input_features [B, mels, frames] float32
              -> tokens [B, K, D], kept_indices [B, K] int64, sizes [B, K] float32, assignment [B, N] int64
    embed     input_ids [B, P] int64, tokens [B, K, D] -> inputs_embeds [B, P + K, D]
              P = prompt_length. The image span is at the fixed offset image_span[0], put there by Concat:
              [ids before the offset | K visual tokens | the other ids, right padded with `pad`].
    prefill   inputs_embeds [B, P + K, D], kept_indices [B, K] int64, token_bias [B, K] float32, last_index [B] int64
              -> logits [B, V] of the token at last_index, present_key_<i>, present_value_<i> [B, H, capacity_i, d]
    decode    input_ids [B, 1] int64, write_index [B] int64, token_bias [B, K] float32, past_key_<i>, past_value_<i>
              -> logits [B, V], present_key_<i>, present_value_<i>

`token_bias` is log(sizes), or zeros with the size bias off; it is added to the attention logits of the K visual keys in
every decoder block, beside the causal mask. Positions follow the kept tokens: visual slot k stands at position
offset + kept_indices[k], text behind the image at the position it had uncompressed, a decoded token at
write_index + N - K. The KV cache has a fixed capacity per layer, P + K + max_new_tokens; the first decoded token is
written at last_index + 1, over the padding, and keys behind the write position are masked.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

SCHEMA = "1.0"
MANIFEST = "manifest.json"

Precision = Literal["fp32", "fp16", "bf16"]
Form = Literal["portable", "plugin", "inlined"]
Role = Literal["encoder", "embed", "prefill", "decode", "text"]


class Strict(BaseModel):
    """Unknown keys are refused by name, except those under ``x-``, which are kept as they are."""

    model_config = ConfigDict(extra="allow")

    @model_validator(mode="after")
    def _only_private_extras(self) -> Strict:
        unknown = sorted(key for key in (self.model_extra or {}) if not key.startswith("x-"))
        if unknown:
            raise ValueError(f"unknown key {unknown[0]!r}")
        return self


class FileRecord(Strict):
    """Size in bytes and SHA-256 of one file, keyed by its path inside the bundle (forward slashes)."""

    size: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class SourceRecord(Strict):
    """What was exported: never a path of the machine that did it."""

    kind: Literal["builtin", "checkpoint", "module", "onnx"]
    name: str
    sha256: str | None = None


class TensorRecord(Strict):
    """A graph input or output: its own name in the graph, dtype and static shape."""

    name: str
    dtype: str
    shape: list[int]


class SeamRecord(Strict):
    """Where the compressor sits."""

    kind: str
    graph: Role
    tensor: str
    grid: list[int] | None = None
    prefix: int = 0


class CompressionRecord(Strict):
    """One compressor: its method, parameters, and the tokens before and after it."""

    method: str
    params: dict[str, Any] = {}
    ratio: str
    tokens_in: int = Field(ge=1)
    tokens_out: int = Field(ge=1)
    size_bias: bool
    seam: SeamRecord


class GraphRecord(Strict):
    """One role: its files by form, its precision, and its inputs and outputs by role."""

    forms: dict[Form, str]
    precision: Precision
    inputs: dict[str, TensorRecord]
    outputs: dict[str, TensorRecord]


class GenerationRecord(Strict):
    """What greedy generation needs beside the graphs (see the module docstring).

    Attributes:
        image_span: [offset, K] in the compressed sequence.
        tokens_in: N, the length of the span before compression: text positions behind the image count from it.
        prompt_length: P, the fixed length of the text, image span excluded.
        kv_capacity: key/value slots per layer.
        max_new_tokens: at most this many tokens may be generated.
        vocabulary: V.
    """

    image_span: tuple[int, int]
    tokens_in: int
    prompt_length: int
    kv_capacity: list[int]
    max_new_tokens: int
    vocabulary: int
    bos: int
    pad: int
    eos: list[int]


class Variant(Strict):
    """One compressed model: its compressors and its graphs by role."""

    name: str
    compression: list[CompressionRecord]
    graphs: dict[Role, GraphRecord]
    generation: GenerationRecord | None = None


class PreprocessRecord(Strict):
    """How an image becomes pixel_values.

    Attributes:
        size: [height, width] of the graph's input.
        resample: of Pillow: nearest, bilinear, bicubic or lanczos; it antialiases when shrinking.
        crop: ``none`` (stretch to size), ``center`` (shortest side to size, then crop) or ``pad`` (fit, then pad).
        rescale: multiplies the 8-bit value, before mean and std.
    """

    size: tuple[int, int]
    resample: Literal["nearest", "bilinear", "bicubic", "lanczos"]
    antialias: bool = True
    crop: Literal["none", "center", "pad"] = "none"
    rescale: float = 1 / 255
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    layout: Literal["NCHW"] = "NCHW"


class ProcessorRecord(Strict):
    """How text becomes ids: ``words`` (a vocabulary file, one word an id) or ``none``."""

    kind: Literal["words", "none"] = "none"
    vocabulary: str | None = None


class Manifest(Strict):
    """manifest.json."""

    schema_: str = Field(alias="schema", default=SCHEMA)
    tokexport: str
    source: SourceRecord
    files: dict[str, FileRecord]
    variants: list[Variant] = Field(min_length=1)
    preprocess: PreprocessRecord | None = None
    processor: ProcessorRecord = ProcessorRecord()
    parity: dict[str, Any] = {}
    versions: dict[str, str] = {}

    model_config = ConfigDict(extra="allow", populate_by_name=True)


def json_schema() -> dict[str, Any]:
    """The JSON schema of manifest.json, published as runtimes/manifest.schema.json."""
    return Manifest.model_json_schema(by_alias=True)
