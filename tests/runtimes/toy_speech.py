"""A recogniser made by hand: it says in one word how loud a sound is, and its rule only holds if every id is right.

Sounds have 100 samples a second. The encoder reads a waveform; its one token is ten times the loudest sample. Ids are
in Whisper's order: ten words from "zero" to "nine", the end, `start`, two languages, two tasks, `no_timestamps`, and
times of half a second. Behind a prompt, and behind a time, comes the word for the loudness; behind a word the end, but

    behind "seven"  the time 2.0 s, behind which comes the end
    behind "nine"   "nine", for ever
    behind `start`  "de", so that German is what it hears
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tokexport.runtimes.bundle.manifest import (
    CompressionRecord,
    GenerationRecord,
    Manifest,
    ProcessorRecord,
    SeamRecord,
    SourceRecord,
    SpeechRecord,
    Variant,
    WaveformRecord,
)
from tokexport.runtimes.bundle.writer import BundleWriter
from tokexport.runtimes.words import Words
from toy_bundle import model, record

RATE, P, NEW = 100, 8, 6
SPOKEN = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
EOS, START, EN, DE, TRANSCRIBE, TRANSLATE, NO_TIMES, TIMES = range(10, 18)
V = TIMES + 61
_SPECIAL = ("<eos>", "<start>", "<en>", "<de>", "<transcribe>", "<translate>", "<notimes>")
WORDS = Words(
    (*SPOKEN, *_SPECIAL, *(f"<{i / 2}>" for i in range(61))),
    bos=START,
    pad=EOS,
    eos=(EOS,),
)
SPEECH = SpeechRecord(
    start=START,
    languages={"en": EN, "de": DE},
    tasks={"transcribe": TRANSCRIBE, "translate": TRANSLATE},
    no_timestamps=NO_TIMES,
    timestamps=TIMES,
    timestamp_seconds=0.5,
    latest_start=2,
)

# What a record lacks (None: the whole record), what is asked all the same, and how every runtime refuses it.
LACKING = (
    ({"languages": {}}, {"language": "en"}, r"takes no language.*Leave language \(--language\) out"),
    ({"tasks": {}}, {"task": "transcribe"}, "takes no task"),
    ({"no_timestamps": None, "timestamps": None}, {"timestamps": True}, "writes no times"),
    (None, {"timestamps": True}, "timestamps is for recognisers of speech"),
    (None, {"language": "en"}, "language is for recognisers of speech"),
)

# The id behind each id, to which the loudness is added where the second table has a one.
_NEXT = [EOS] * 10 + [EOS, DE] + [0] * (V - 12)
_NEXT[7], _NEXT[9] = TIMES + 4, 9
_NEXT[TIMES + 4] = EOS
_LOUD = [int(i > START and i != TIMES + 4) for i in range(V)]

_TABLES = f"""<int64[1] depth = {{{V}}}, float[2] values = {{0, 20}}, int64[1] zero = {{0}},
 float[{V}] next = {{{", ".join(map(str, _NEXT))}}}, float[{V}] loud = {{{", ".join(map(str, _LOUD))}}}>"""
_SAYS = """
  base = Gather (next, id)
  times = Gather (loud, id)
  level = Reshape (heard, one_axis)
  more = Mul (times, level)
  both = Add (base, more)
  wanted = Cast <to = 7> (both)
  logits = OneHot <axis = -1> (wanted, depth, values)"""


def encoder(samples: int) -> str:
    return f"""toy (float[1,{samples}] input_values) => (float[1,1,1] tokens, int64[1,1] kept_indices, float[1,1] sizes)
<float ten = {{10}}, int64[3] shape = {{1, 1, 1}}>
{{
  size = Abs (input_values)
  loudest = ReduceMax <keepdims = 0> (size)
  scaled = Mul (loudest, ten)
  level = Round (scaled)
  tokens = Reshape (level, shape)
  kept_indices = Constant <value = int64[1,1] {{0}}> ()
  sizes = Constant <value = float[1,1] {{2}}> ()
}}"""


PREFILL = f"""toy (int64[1,{P}] input_ids, float[1,1,1] tokens, float[1,1] token_bias, int64[1] last_index)
  => (float[1,{V}] logits, float[1,1,1,1] cross_key_0, float[1,1,1,1] cross_value_0)
{_TABLES[:-1]}, int64[1] one_axis = {{1}}, int64[1] one = {{1}}, int64[1] whole = {{{P}}}>
{{
  row = Reshape (input_ids, whole)
  id = Gather (row, last_index)
  heard = Identity (tokens)
  {_SAYS}
  cross_key_0 = Unsqueeze (tokens, one)
  cross_value_0 = Identity (cross_key_0)
}}"""

DECODE = f"""toy (int64[1,1] input_ids, int64[1] write_index, float[1,1] token_bias,
     float[1,1,1,1] cross_key_0, float[1,1,1,1] cross_value_0)
  => (float[1,{V}] logits)
{_TABLES[:-1]}, int64[1] one_axis = {{1}}>
{{
  id = Reshape (input_ids, one_axis)
  heard = Identity (cross_key_0)
  {_SAYS}
}}"""


def generation(speech: SpeechRecord | None = SPEECH) -> GenerationRecord:
    return GenerationRecord(
        attention="cross",
        image_span=(0, 1),
        tokens_in=2,
        prompt_length=P,
        kv_capacity=[],
        max_new_tokens=NEW,
        vocabulary=V,
        bos=WORDS.bos,
        pad=WORDS.pad,
        eos=list(WORDS.eos),
        begin_suppress=[EOS],
        speech=speech,
    )


def write(
    out: Path, seconds: tuple[int, ...] = (30,), speech: SpeechRecord | None = SPEECH, ratio: str = "0.5"
) -> Path:
    """A bundle with an encoder of each of these lengths; the first is the default one."""
    seam = SeamRecord(kind="encoder_output", graph="encoder", tensor="tokens")
    compression = CompressionRecord(method="toy", ratio=ratio, tokens_in=2, tokens_out=1, size_bias=False, seam=seam)
    with BundleWriter(out) as writer:
        shared, variants = {}, []
        for role, text in (("prefill", PREFILL), ("decode", DECODE)):
            source = model(text)
            writer.add_model(f"{role}.onnx", source)
            shared[role] = record(source, f"{role}.onnx")
        for length in seconds:
            source = model(encoder(length * RATE))
            writer.add_model(f"encoder.{length}.onnx", source)
            variants.append(
                Variant(
                    name=f"toy-{length}s",
                    compression=[compression],
                    graphs={"encoder": record(source, f"encoder.{length}.onnx"), **shared},
                    generation=generation(speech),
                    preprocess=WaveformRecord(kind="waveform", sample_rate=RATE, samples=length * RATE),
                )
            )
        writer.add_json("processor/words.json", WORDS.to_json())
        return writer.commit(
            Manifest(
                tokexport="0.1.0",
                source=SourceRecord(kind="checkpoint", name="toy"),
                files={},
                variants=variants,
                preprocess=WaveformRecord(kind="waveform", sample_rate=RATE, samples=30 * RATE),
                processor=ProcessorRecord(kind="words", vocabulary="processor/words.json"),
            )
        )


def said(*loudness: tuple[float, float]) -> np.ndarray:
    """Tones of (seconds, loudness), one behind the other."""
    parts = [level * np.sign(np.sin(np.arange(round(length * RATE)) + 0.5)) for length, level in loudness]
    return np.concatenate(parts).astype(np.float32)
