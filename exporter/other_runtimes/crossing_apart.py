"""A recogniser as ONNX Runtime GenAI has Whisper: the encoder makes the keys and values of cross-attention.

    encoder  audio_features [1, mels, frames]
             -> encoder_hidden_states [1, frames / 2, D],
             present_key_cross_<i>, present_value_cross_<i> [1, H, frames / 2, d]
    decoder  input_ids [1, S], past_key_self_<i>, past_value_self_<i> [1, H, T, d],
             past_key_cross_<i>, past_value_cross_<i> [1, H, frames / 2, d]
             -> logits [1, 1, V] float32, present_key_self_<i>, present_value_self_<i> [1, H, T + S, d]

Room is made for a row of each of the frames / 2 tokens that Whisper has, whatever is kept. The K kept ones come first,
and are all that the decoder reads; the rest is zero, but for the biases, which lie behind them in the keys of the
first layer: d of them in a row of the first head, in half precision as two numbers that add up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from ...graph_passes.ir_tools.builder import Builder
from ...graph_passes.ir_tools.extract import between
from ...runtimes.bundle.manifest import Variant
from .branches import Merged, tensor
from .graphs import Cache, Graphs, caches_of, filled, float32, goes_on, prompt
from .packed import cast, log_sizes

# That Whisper reads in ONNX Runtime GenAI, whatever its configuration says.
FRAMES = 3000


@dataclass(frozen=True)
class Places:
    """Where the biases lie.

    Attributes:
        keep: K.
        dim: d.
        parts: numbers that add up to one bias.
    """

    keep: int
    dim: int
    parts: int

    @classmethod
    def of(cls, variant: Variant) -> Places:
        """In the graphs of a variant."""
        cross = caches_of(variant.graphs["decode"], "cross")[0]
        half = variant.graphs["decode"].inputs[f"cross_{cross.name}"].dtype != "float32"
        return cls(cross.slots, cross.dim, 2 if half else 1)

    @property
    def rows(self) -> int:
        """Of each part."""
        return -(-self.keep // self.dim)

    @property
    def end(self) -> int:
        """Rows that are not zero."""
        return self.keep + self.rows * self.parts


def encoder(models: Mapping[str, ir.Model], variant: Variant, size: int, *, size_bias: bool) -> ir.Model:
    """The encoder with caches of `size` rows; see the docstring of this module."""
    record, crosses = variant.graphs["prefill"], caches_of(variant.graphs["decode"], "cross")
    own = models["encoder"].graph.inputs[0]
    assert own.dtype is not None and own.shape is not None
    heard = tensor("audio_features", ir.DataType.FLOAT, *[int(axis) for axis in own.shape])  # type: ignore[arg-type]
    merged = Merged("encoder", [heard])
    b, names = merged.body, {name: one.name for name, one in variant.graphs["encoder"].outputs.items()}
    made = merged.call(b, "encoder", models["encoder"], {own.name or "": cast(b, heard, own.dtype)})
    tokens, reads = made[names["tokens"]], record.inputs["tokens"].name
    part = between(models["prefill"], [reads], [record.outputs[f"cross_{one.name}"].name for one in crosses])
    wanted = next(value.dtype for value in models["prefill"].graph.inputs if value.name == reads)
    assert wanted is not None
    caches = merged.call(b, "cross", part, {reads: b.op("Cast", tokens, to=int(wanted))})
    keep, width = record.inputs["tokens"].shape[1:]
    hidden = b.op("Pad", float32(b, tokens), [0, 0, 0, 0, size - keep, 0])
    outputs = {"encoder_hidden_states": _typed(hidden, ir.DataType.FLOAT, 1, size, width)}
    bias, places = log_sizes(b, made, names, keep, size_bias=size_bias), Places.of(variant)
    for cross in crosses:
        name = record.outputs[f"cross_{cross.name}"].name
        dtype = next(value.dtype for value in models["prefill"].graph.outputs if value.name == name)
        assert dtype is not None
        value = caches[name]
        if cross is crosses[0]:
            value = b.op("Concat", value, *_rows(b, bias, places, cross.heads, dtype), axis=2)
        missing = size - (places.end if cross is crosses[0] else keep)
        value = b.op("Pad", value, [0, 0, 0, 0, 0, 0, missing, 0])
        outputs[f"present_{cross.kind}_cross_{cross.layer}"] = _typed(value, dtype, 1, cross.heads, size, cross.dim)
    return merged.model(outputs)


def decoder(models: Mapping[str, ir.Model], variant: Variant, size: int) -> ir.Model:
    """The decoder, which reads cross caches of `size` rows; see the docstring of this module."""
    record = variant.graphs["decode"]
    caches, crosses = caches_of(record), caches_of(record, "cross")
    ids = tensor("input_ids", ir.DataType.INT64, 1, "sequence_length")
    graphs = Graphs(Merged("decoder", [ids]), models, variant)
    dtype = graphs.input_type("decode", f"past_{caches[0].name}")
    past = {
        f"present_{one.kind}_self_{one.layer}": tensor(
            f"past_{one.kind}_self_{one.layer}", dtype, 1, one.heads, "past_sequence_length", one.dim
        )
        for one in caches
    }
    read = [tensor(f"past_{one.kind}_cross_{one.layer}", dtype, 1, one.heads, size, one.dim) for one in crosses]
    graphs.merged.inputs += [*past.values(), *read]
    heard = _Heard(crosses, read, Places.of(variant))
    return graphs.choose(
        past,
        _prefill(graphs, ids, caches, heard),
        _decode(graphs, ids, list(zip(caches, past.values(), strict=True)), heard),
    )


def _typed(value: ir.Value, dtype: ir.DataType, *shape: int) -> ir.Value:
    value.type, value.shape = ir.TensorType(dtype), ir.Shape(shape)
    return value


def _rows(b: Builder, bias: ir.Value, places: Places, heads: int, dtype: ir.DataType) -> list[ir.Value]:
    """Biases [1, K] as rows [1, H, rows, d] of a cache, a value for each part."""
    found = []
    for _ in range(places.parts):
        part = b.op("Cast", bias, to=int(dtype))
        rows = b.op("Pad", part, [0, 0, 0, places.rows * places.dim - places.keep])
        rows = b.op("Reshape", rows, [1, 1, places.rows, places.dim])
        found.append(b.op("Pad", rows, [0, 0, 0, 0, 0, heads - 1, 0, 0]))
        bias = b.op("Sub", bias, float32(b, part))
    return found


@dataclass(frozen=True)
class _Heard:
    """The cross caches that the decoder is given."""

    caches: list[Cache]
    values: list[ir.Value]
    places: Places

    def parted(self, b: Builder) -> tuple[dict[str, ir.Value], ir.Value]:
        """Each cache of K rows by its role, and token_bias [1, K]."""
        places = self.places
        kept = {
            f"cross_{one.name}": b.op("Slice", value, [0], [places.keep], [2])
            for one, value in zip(self.caches, self.values, strict=True)
        }
        rows = b.op("Slice", float32(b, self.values[0]), [0, places.keep], [1, places.end], [1, 2])
        bias = b.op("ReduceSum", b.op("Reshape", rows, [1, places.parts, -1]), [1], keepdims=0)
        return kept, b.op("Slice", bias, [0], [places.keep], [1])


def _prefill(graphs: Graphs, ids: ir.Value, caches: list[Cache], heard: _Heard) -> tuple[Builder, list[ir.Value]]:
    b, record, graph = Builder("prefill."), graphs.generation, graphs.variant.graphs["prefill"]
    text, count = prompt(b, ids, record.prompt_length, record.pad)
    cross, bias = heard.parted(b)
    given = {graph.outputs[name].name: value for name, value in cross.items()}
    for name, value in (("input_ids", text), ("token_bias", bias), ("last_index", b.op("Sub", count, [1]))):
        given[graph.inputs[name].name] = b.op("Cast", value, to=int(graphs.input_type("prefill", name)))
    wanted = [graph.outputs[name].name for name in ("logits", *(f"present_{one.name}" for one in caches))]
    part = between(graphs.models["prefill"], [graph.outputs[name].name for name in cross], wanted)
    made = graphs.merged.call(b, "prefill", part, given)
    logits, *presents = (made[name] for name in wanted)
    never = [*record.suppress, *record.begin_suppress]
    presents = [filled(b, value, one, count) for one, value in zip(caches, presents, strict=True)]
    return b, [graphs.logits(b, logits, never), *presents]


def _decode(
    graphs: Graphs, ids: ir.Value, own: list[tuple[Cache, ir.Value]], heard: _Heard
) -> tuple[Builder, list[ir.Value]]:
    b = Builder("decode.")
    cross, bias = heard.parted(b)
    return b, goes_on(b, graphs, own, ids, {"input_ids": ids, **cross, "token_bias": bias})
