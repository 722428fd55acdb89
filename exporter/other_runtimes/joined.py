"""prefill and decode of a bundle whose tokens are part of the text, as the one decoder graph that other runtimes have.

    inputs_embeds [1, S, D + 2] float32 (see `packed`), past_key_values.<i>.key and .value [1, G, T, d]
    -> logits [1, 1, V] float32 of the last word, present.<i>.key and .value [1, G, T + S, d]

With T = 0 it is prefill: the rows are parted into ids and tokens again, padded to the bundle's prompt length, and the
caches are cut to S. Otherwise S is 1, and it is decode: the caches are padded to the bundle's capacity, and the new
keys and values are put behind what was given. What decode needs further, the biases of the kept tokens, lies in the
first rows of the cache of one layer more, whose heads have a channel for each; in half precision two, which add up.

A layer behind a compressor of the language model has seen fewer tokens: its cache begins with so many rows of zeros,
because runtimes want the caches of all layers equally long.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from ...graph_passes.ir_tools.builder import Builder
from ...runtimes.bundle.manifest import GraphRecord, Variant
from .branches import Merged, require, tensor
from .graphs import Cache, Graphs, caches_of, filled, float32, goes_on, parts, parts_of
from .packed import FURTHER


def decoder(models: Mapping[str, ir.Model], variant: Variant) -> ir.Model:
    """The decoder of a variant; see the docstring of this module.

    Args:
        models: embed, prefill and decode in portable form; none is changed.
        variant: of the manifest.
    """
    caches = caches_of(variant.graphs["decode"])
    width = variant.graphs["embed"].inputs["tokens"].shape[2]
    embeds = tensor("inputs_embeds", ir.DataType.FLOAT, 1, "sequence_length", width + FURTHER)
    graphs = Graphs(Merged("decoder", []), models, variant)
    dtype = graphs.input_type("decode", f"past_{caches[0].name}")
    further = _Carrier(biases_of(variant.graphs["decode"]), dtype, layers(variant) - 1)
    past = {
        f"present.{cache.layer}.{cache.kind}": _past(cache.layer, cache.kind, dtype, cache.heads, cache.dim)
        for cache in caches
    } | {
        f"present.{further.layer}.{kind}": _past(further.layer, kind, dtype, 1, further.channels)
        for kind in ("key", "value")
    }
    graphs.merged.inputs += [embeds, *past.values()]
    given = list(past.values())
    then = _prefill(graphs, embeds, caches, further)
    return graphs.choose(past, then, _decode(graphs, embeds, caches, further, given))


def layers(variant: Variant) -> int:
    """How many layers the decoder has to other runtimes: one more than the model."""
    return max(cache.layer for cache in caches_of(variant.graphs["decode"])) + 2


def biases_of(decode: GraphRecord) -> dict[str, int]:
    """Roles of the biases that decode takes -> how many tokens each is of."""
    return {name: record.shape[1] for name, record in decode.inputs.items() if name.startswith("token_bias")}


def _past(layer: int, kind: str, dtype: ir.DataType, heads: int, dim: int) -> ir.Value:
    return tensor(f"past_key_values.{layer}.{kind}", dtype, 1, heads, "past_sequence_length", dim)


class _Carrier:
    """The cache of the layer that holds the biases.

    Args:
        biases: see `biases_of`.
        dtype: of the caches.
        layer: its number.
    """

    def __init__(self, biases: Mapping[str, int], dtype: ir.DataType, layer: int) -> None:
        self.biases, self.dtype, self.layer = biases, dtype, layer
        self.each = parts_of(dtype)
        self.channels = self.each * len(biases)

    def written(self, b: Builder, told: Mapping[str, ir.Value], length: ir.Value) -> ir.Value:
        """Biases [1, K_j] as [1, 1, length, channels]; `length` int64 [1]."""
        columns: list[ir.Value] = []
        for name, count in self.biases.items():
            ends = b.op("Concat", [0, 0, 0], b.op("Sub", length, [count]), axis=0)
            columns += parts(b, b.op("Pad", float32(b, told[name]), ends, 0.0), self.dtype)
        return b.op("Unsqueeze", b.op("Concat", *(b.op("Unsqueeze", one, [2]) for one in columns), axis=2), [1])

    def read(self, b: Builder, cache: ir.Value) -> dict[str, ir.Value]:
        """The biases again, [1, K_j] float32."""
        held = float32(b, b.op("Squeeze", cache, [1]))
        found = {}
        for number, (name, count) in enumerate(self.biases.items()):
            begin = number * self.each
            rows = b.op("Slice", held, [0, begin], [count, begin + self.each], [1, 2])
            found[name] = b.op("ReduceSum", rows, [2], keepdims=0)
        return found


def _prefill(
    graphs: Graphs, embeds: ir.Value, caches: list[Cache], further: _Carrier
) -> tuple[Builder, list[ir.Value]]:
    b, record = Builder("prefill."), graphs.generation
    (offset, keep), longest = record.image_span, record.prompt_length
    assert embeds.shape is not None
    width = int(embeds.shape[2]) - FURTHER  # type: ignore[arg-type]
    image = b.op("Slice", embeds, [offset], [offset + keep], [1])
    count = b.op("Add", b.op("Shape", embeds, start=1, end=2), _fits(b, graphs, embeds, image, width))
    text = b.op(
        "Concat",
        b.op("Slice", embeds, [0], [offset], [1]),
        b.op("Slice", embeds, [offset + keep], [2**31], [1]),
        axis=1,
    )
    ids = b.cast(b.op("Round", b.op("Squeeze", b.op("Slice", text, [0], [1], [2]), [2])), "int64")
    missing = b.op("Sub", [longest + keep], count)
    ids = b.op("Reshape", b.op("Pad", ids, b.op("Concat", [0, 0, 0], missing, axis=0), record.pad), [1, longest])
    kept, bias = (b.op("Squeeze", b.op("Slice", image, [at], [at + 1], [2]), [2]) for at in (width, width + 1))
    tokens = b.op("Slice", image, [0], [width], [2])
    given = {
        "inputs_embeds": graphs.call(b, "embed", {"input_ids": ids, "tokens": tokens})["inputs_embeds"],
        "token_bias": bias,
        "last_index": b.op("Sub", count, [1]),
        "kept_indices": b.op("Round", kept),
    }
    reads = graphs.variant.graphs["prefill"].inputs
    made = graphs.call(b, "prefill", {name: value for name, value in given.items() if name in reads})
    carried = further.written(b, {**made, "token_bias": bias}, count)
    presents = [filled(b, made[f"present_{cache.name}"], cache, count) for cache in caches]
    never = [*record.suppress, *record.begin_suppress]
    return b, [graphs.logits(b, made["logits"], never), *presents, carried, carried]


def _fits(b: Builder, graphs: Graphs, embeds: ir.Value, image: ir.Value, width: int) -> ir.Value:
    """int64 [1], zero, where a prompt is one that the graphs of the bundle take; else the runtime stops."""
    record = graphs.generation
    (offset, keep), longest = record.image_span, record.prompt_length

    def places(rows: ir.Value) -> ir.Value:
        kept = b.op("Slice", rows, [width], [width + 1], [2])
        return b.op("ReduceSum", b.cast(b.op("GreaterOrEqual", kept, 0.0), "int64"), keepdims=0)

    placed = b.op("And", b.op("Equal", places(embeds), keep), b.op("Equal", places(image), keep))
    fits = b.op("LessOrEqual", b.op("Shape", embeds, start=1, end=2), [longest + keep])
    return b.op(
        "Add",
        require(b, placed, f"{keep} placeholders must stand behind {offset} ids of the prompt, and nowhere else"),
        require(b, fits, f"the prompt has more than {longest} ids beside the image"),
    )


def _decode(
    graphs: Graphs, embeds: ir.Value, caches: list[Cache], further: _Carrier, past: list[ir.Value]
) -> tuple[Builder, list[ir.Value]]:
    b = Builder("decode.")
    *own, carried, spare = past
    word = b.cast(b.op("Round", b.op("Squeeze", b.op("Slice", embeds, [0], [1], [2]), [2])), "int64")
    given = {"input_ids": word, **further.read(b, carried)}
    results = goes_on(b, graphs, list(zip(caches, own, strict=True)), embeds, given)
    return b, [*results, *(b.op("Pad", value, [0, 0, 0, 0, 0, 0, 1, 0]) for value in (carried, spare))]
