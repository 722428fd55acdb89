"""A bundle made by hand, whose answers follow a rule that only holds if every value reaches its graph.

The vocabulary is <pad> <bos> <eos> a b c d e f ?, one word an id. The encoder keeps positions 1 and 3 of 4, with sizes
3 and 1. Prefill continues at the id at last_index plus exp(token_bias[0]) - 2: plus one with the size bias, minus one
without. It keeps the embedded ids as its key cache. Decode reads the key cache just before write_index and continues
at that id plus two, which is its own id plus one if the caches and indices are right. `schema` 1.0 has it return whole
caches.
"""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
from onnx import parser
from tokexport.runtimes.bundle.manifest import (
    SCHEMA,
    CompressionRecord,
    GenerationRecord,
    GraphRecord,
    Manifest,
    PreprocessRecord,
    ProcessorRecord,
    SeamRecord,
    SourceRecord,
    TensorRecord,
    TextRecord,
    Variant,
)
from tokexport.runtimes.bundle.writer import BundleWriter
from tokexport.runtimes.words import Words

WORDS = Words(("<pad>", "<bos>", "<eos>", "a", "b", "c", "d", "e", "f", "?"), bos=1, pad=0, eos=(2,))
V, P, K, N, OFFSET, NEW = len(WORDS.words), 5, 2, 4, 1, 4
CAPACITY = P + K + NEW

HEADER = '<ir_version: 10, opset_import: ["" : 18]>\n'

ENCODER = """toy (float[1,3,4,4] pixel_values)
  => (float[1,2,1] tokens, int64[1,2] kept_indices, float[1,2] sizes, int64[1,4] assignment)
<float[1] zero = {0}, int64[3] shape = {1, 2, 1}>
{
  mean = ReduceMean <keepdims = 0> (pixel_values)
  scaled = Mul (mean, zero)
  tokens = Expand (scaled, shape)
  kept_indices = Constant <value = int64[1,2] {1, 3}> ()
  sizes = Constant <value = float[1,2] {3, 1}> ()
  assignment = Constant <value = int64[1,4] {0, 0, 0, 1}> ()
}"""

EMBED = f"""toy (int64[1,{P}] input_ids, float[1,{K},1] tokens) => (float[1,{P + K},1] inputs_embeds)
<int64[1] two = {{2}}, int64[2] parts = {{{OFFSET}, {P - OFFSET}}}>
{{
  ids = Cast <to = 1> (input_ids)
  text = Unsqueeze (ids, two)
  before, behind = Split <axis = 1> (text, parts)
  inputs_embeds = Concat <axis = 1> (before, tokens, behind)
}}"""

# The logits that choose the id `wanted`.
_LOGITS = """
  wanted_id = Cast <to = 7> (wanted)
  logits = OneHot <axis = -1> (wanted_id, depth, values)"""
_CONSTANTS = f"""int64[1] depth = {{{V}}}, float[2] values = {{0, 1}}"""

PREFILL = f"""toy (float[1,{P + K},1] inputs_embeds, int64[1,{K}] kept_indices, float[1,{K}] token_bias,
     int64[1] last_index)
  => (float[1,{V}] logits, float[1,1,{CAPACITY},1] present_key_0, float[1,1,{CAPACITY},1] present_value_0)
<{_CONSTANTS}, int64[1] zero = {{0}}, int64[1] one = {{1}}, float[1] two = {{2}},
 int64[8] pads = {{0, 0, 0, 0, 0, 0, {NEW}, 0}}>
{{
  row = Squeeze (inputs_embeds)
  last = Gather (row, last_index)
  first_bias = Slice (token_bias, zero, one, one)
  first = Squeeze (first_bias)
  weight = Exp (first)
  more = Sub (weight, two)
  sum = Add (last, more)
  wanted = Round (sum)
  {_LOGITS}
  keys = Unsqueeze (inputs_embeds, one)
  present_key_0 = Pad (keys, pads)
  present_value_0 = Identity (present_key_0)
}}"""

DECODE = f"""toy (int64[1,1] input_ids, int64[1] write_index, float[1,{K}] token_bias,
     float[1,1,{CAPACITY},1] past_key_0, float[1,1,{CAPACITY},1] past_value_0)
  => (float[1,{V}] logits, float[1,1,1,1] new_key_0, float[1,1,1,1] new_value_0)
<{_CONSTANTS}, int64[1] one = {{1}}, float[1] two = {{2}}, int64[4] shape = {{1, 1, 1, 1}}>
{{
  before = Sub (write_index, one)
  cache = Squeeze (past_key_0)
  previous = Gather (cache, before)
  wanted = Add (previous, two)
  {_LOGITS}
  id = Cast <to = 1> (input_ids)
  new_key_0 = Reshape (id, shape)
  new_value_0 = Neg (new_key_0)
}}"""


# The same answers where decode reads no key, but the id before as a state, which a hybrid's layers carry.
STATEFUL = {
    "prefill": PREFILL.replace("present_value_0)\n", "present_value_0,\n  float[1,1] state_conv_0)\n").replace(
        "  weight = Exp", "  state_conv_0 = Unsqueeze (last, one)\n  weight = Exp"
    ),
    "decode": DECODE.replace("past_value_0)\n", "past_value_0, float[1,1] state_conv_0)\n")
    .replace("new_value_0)\n", "new_value_0, float[1,1] new_state_conv_0)\n")
    .replace("  previous = Gather (cache, before)", "  previous = Squeeze (state_conv_0, one)")
    .replace("  id = Cast", "  new_state_conv_0 = Cast <to = 1> (input_ids)\n  id = Cast"),
}


def whole(decode: str, capacity: int = CAPACITY) -> str:
    """A decode graph that returns its slices, made one of schema 1: it returns whole caches."""
    cache = f"float[1,1,{capacity},1]"
    decode = decode.replace("float[1,1,1,1] new_key_0", f"{cache} present_key_0")
    decode = decode.replace("float[1,1,1,1] new_value_0", f"{cache} present_value_0")
    ranges = f"int64 from = {{0}}, int64 to = {{{capacity}}}, int64 by = {{1}}, int64[4] row = {{1, 1, {capacity}, 1}}>"
    head, _, body = decode.rstrip("}").partition(">\n{")
    return f"""{head}, {ranges}
{{{body}
  slots = Range (from, to, by)
  at = Equal (slots, write_index)
  write = Reshape (at, row)
  present_key_0 = Where (write, new_key_0, past_key_0)
  present_value_0 = Where (write, new_value_0, past_value_0)
}}"""


def model(text: str) -> ir.Model:
    return ir.from_proto(parser.parse_model(HEADER + text))


def record(source: ir.Model, file: str) -> GraphRecord:
    inputs, outputs = (
        {
            str(v.name): TensorRecord.model_validate(
                {"name": v.name, "dtype": str(v.dtype.numpy()), "shape": [int(axis) for axis in v.shape]}
            )
            for v in values
            if v.shape is not None and v.dtype is not None
        }
        for values in (source.graph.inputs, source.graph.outputs)
    )
    return GraphRecord(forms={"portable": file}, precision="fp32", inputs=inputs, outputs=outputs)


def generation() -> GenerationRecord:
    return GenerationRecord(
        image_span=(OFFSET, K),
        tokens_in=N,
        prompt_length=P,
        kv_capacity=[CAPACITY],
        max_new_tokens=NEW,
        vocabulary=V,
        bos=WORDS.bos,
        pad=WORDS.pad,
        eos=list(WORDS.eos),
    )


def variant(graphs: dict[str, GraphRecord], *, size_bias: bool = True, text: TextRecord | None = None) -> Variant:
    seam = SeamRecord(kind="encoder_output", graph="encoder", tensor="tokens")
    compression = CompressionRecord(
        method="toy", ratio="0.5", tokens_in=N, tokens_out=K, size_bias=size_bias, seam=seam
    )
    return Variant.model_validate(
        {"name": "toy-0.5", "compression": [compression], "graphs": graphs, "generation": generation(), "text": text}
    )


def manifest(
    graphs: dict[str, GraphRecord], *, size_bias: bool = True, text: TextRecord | None = None, schema: str = SCHEMA
) -> Manifest:
    return Manifest(
        schema_=schema,
        tokexport="0.1.0",
        source=SourceRecord(kind="builtin", name="toy"),
        files={},
        variants=[variant(graphs, size_bias=size_bias, text=text)],
        preprocess=PreprocessRecord(size=(4, 4), resample="bicubic", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        processor=ProcessorRecord(kind="words", vocabulary="processor/words.json"),
    )


def fill(
    writer: BundleWriter,
    *,
    size_bias: bool = True,
    record_of_text: TextRecord | None = None,
    schema: str = SCHEMA,
    **changed: str,
) -> Manifest:
    """Add the graphs and the vocabulary; `changed` replaces or adds the text of a role's graph."""
    decode = whole(DECODE) if schema.startswith("1.") else DECODE
    texts = {"encoder": ENCODER, "embed": EMBED, "prefill": PREFILL, "decode": decode} | changed
    graphs = {}
    for role, text in texts.items():
        source = model(text)
        writer.add_model(f"{role}.onnx", source)
        graphs[role] = record(source, f"{role}.onnx")
    writer.add_json("processor/words.json", WORDS.to_json())
    return manifest(graphs, size_bias=size_bias, text=record_of_text, schema=schema)


def write(
    out: Path,
    *,
    size_bias: bool = True,
    record_of_text: TextRecord | None = None,
    schema: str = SCHEMA,
    **changed: str,
) -> Path:
    with BundleWriter(out) as writer:
        filled = fill(writer, size_bias=size_bias, record_of_text=record_of_text, schema=schema, **changed)
        return writer.commit(filled)
