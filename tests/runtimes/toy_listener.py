"""A bundle made by hand that reads its tokens by cross-attention; its rule only holds if every value reaches its graph.

The vocabulary is that of toy_bundle. The encoder takes a log-mel spectrogram and keeps positions 1 and 3 of 4, with
sizes 3 and 1; its tokens are 2 and 5. Prefill answers with the id at last_index plus exp(token_bias[0]) - 2: plus one
with the size bias, minus one without. It keeps the ids as its key cache and the tokens as its cross cache. Decode
answers with the id in the key cache just before write_index, plus the first token of the cross cache, plus
exp(token_bias[0]) - 3: with the size bias that is its own id plus one.
"""

from __future__ import annotations

from pathlib import Path

from tokexport.runtimes.bundle.manifest import SCHEMA, GenerationRecord, LogMelRecord, Manifest
from tokexport.runtimes.bundle.writer import BundleWriter
from toy_bundle import _CONSTANTS, _LOGITS, NEW, WORDS, K, N, P, V, manifest, model, record, whole

CAPACITY = P + NEW
SOUND = LogMelRecord(kind="log_mel", sample_rate=16000, n_fft=400, hop=160, mels=8, frames=10)

ENCODER = """toy (float[1,8,10] input_features)
  => (float[1,2,1] tokens, int64[1,2] kept_indices, float[1,2] sizes, int64[1,4] assignment)
<float zero = {0}, float[1,2,1] said = {2, 5}>
{
  sum = ReduceSum <keepdims = 0> (input_features)
  nothing = Mul (sum, zero)
  tokens = Add (said, nothing)
  kept_indices = Constant <value = int64[1,2] {1, 3}> ()
  sizes = Constant <value = float[1,2] {3, 1}> ()
  assignment = Constant <value = int64[1,4] {0, 0, 0, 1}> ()
}"""

PREFILL = f"""toy (int64[1,{P}] input_ids, float[1,{K},1] tokens, float[1,{K}] token_bias, int64[1] last_index)
  => (float[1,{V}] logits, float[1,1,{CAPACITY},1] present_key_0, float[1,1,{CAPACITY},1] present_value_0,
      float[1,1,{K},1] cross_key_0, float[1,1,{K},1] cross_value_0)
<{_CONSTANTS}, int64[1] zero = {{0}}, int64[1] one = {{1}}, float[1] two = {{2}}, int64[4] shape = {{1, 1, {P}, 1}},
 int64[8] pads = {{0, 0, 0, 0, 0, 0, {NEW}, 0}}>
{{
  ids = Cast <to = 1> (input_ids)
  row = Squeeze (ids)
  last = Gather (row, last_index)
  first_bias = Slice (token_bias, zero, one, one)
  first = Squeeze (first_bias)
  weight = Exp (first)
  more = Sub (weight, two)
  sum = Add (last, more)
  wanted = Round (sum)
  {_LOGITS}
  keys = Reshape (ids, shape)
  present_key_0 = Pad (keys, pads)
  present_value_0 = Identity (present_key_0)
  cross_key_0 = Unsqueeze (tokens, one)
  cross_value_0 = Identity (cross_key_0)
}}"""

DECODE = f"""toy (int64[1,1] input_ids, int64[1] write_index, float[1,{K}] token_bias,
     float[1,1,{CAPACITY},1] past_key_0, float[1,1,{CAPACITY},1] past_value_0,
     float[1,1,{K},1] cross_key_0, float[1,1,{K},1] cross_value_0)
  => (float[1,{V}] logits, float[1,1,1,1] new_key_0, float[1,1,1,1] new_value_0)
<{_CONSTANTS}, int64[1] one = {{1}}, float[1] three = {{3}}, int64[1] zero = {{0}}, int64[1] at_first = {{0}},
 int64[4] shape = {{1, 1, 1, 1}}>
{{
  before = Sub (write_index, one)
  cache = Squeeze (past_key_0)
  previous = Gather (cache, before)
  heard = Squeeze (cross_key_0)
  token = Gather (heard, at_first)
  first_bias = Slice (token_bias, zero, one, one)
  first = Squeeze (first_bias)
  weight = Exp (first)
  less = Sub (weight, three)
  both = Add (previous, token)
  sum = Add (both, less)
  wanted = Round (sum)
  {_LOGITS}
  id = Cast <to = 1> (input_ids)
  new_key_0 = Reshape (id, shape)
  new_value_0 = Neg (new_key_0)
}}"""


def generation() -> GenerationRecord:
    return GenerationRecord(
        attention="cross",
        image_span=(0, K),
        tokens_in=N,
        prompt_length=P,
        kv_capacity=[CAPACITY],
        max_new_tokens=NEW,
        vocabulary=V,
        bos=WORDS.bos,
        pad=WORDS.pad,
        eos=list(WORDS.eos),
    )


def write(out: Path, *, size_bias: bool = True, schema: str = SCHEMA) -> Path:
    with BundleWriter(out) as writer:
        graphs = {}
        decode = whole(DECODE, CAPACITY) if schema.startswith("1.") else DECODE
        for role, text in {"encoder": ENCODER, "prefill": PREFILL, "decode": decode}.items():
            source = model(text)
            writer.add_model(f"{role}.onnx", source)
            graphs[role] = record(source, f"{role}.onnx")
        writer.add_json("processor/words.json", WORDS.to_json())
        found: Manifest = manifest(graphs, size_bias=size_bias, schema=schema)
        found.preprocess = SOUND
        found.variants[0].generation = generation()
        return writer.commit(found)
