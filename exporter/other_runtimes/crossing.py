"""prefill and decode of a bundle whose decoder reads the tokens by cross-attention, as one decoder graph.

    input_ids [1, S] int64, encoder_hidden_states [1, K, D + 2] float32 (see `packed`),
    past_key_values.<i>.decoder.key and .value [1, H, T, d],
    past_key_values.<i>.encoder.key and .value [1, H, K or 0, d]
    -> logits [1, 1, V] float32 of the last word, present.<i>.decoder.key and .value [1, H, T + S, d],
    present.<i>.encoder.key and .value [1, H, K, d]

With T = 0 it is prefill, otherwise S is 1 and it is decode, see `joined`. The encoder's rows are given at every step,
with the biases in them.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from ...graph_passes.ir_tools.builder import Builder
from ...runtimes.bundle.manifest import Variant
from .branches import Merged, tensor
from .graphs import Cache, Graphs, caches_of, filled, goes_on, prompt
from .packed import FURTHER


def decoder(models: Mapping[str, ir.Model], variant: Variant) -> ir.Model:
    """The decoder of a variant; see the docstring of this module.

    Args:
        models: prefill and decode in portable form; none is changed.
        variant: of the manifest.
    """
    record = variant.graphs["decode"]
    caches, crosses = caches_of(record), caches_of(record, "cross")
    keep, width = variant.graphs["prefill"].inputs["tokens"].shape[1:]
    ids = tensor("input_ids", ir.DataType.INT64, 1, "decoder_sequence_length")
    heard = tensor("encoder_hidden_states", ir.DataType.FLOAT, 1, keep, width + FURTHER)
    graphs = Graphs(Merged("decoder", [ids, heard]), models, variant)
    past = {}
    for side, found, length in (("decoder", caches, "past_sequence_length"), ("encoder", crosses, "encoder_past")):
        for cache in found:
            label, dtype = f"{cache.layer}.{side}.{cache.kind}", graphs.input_type("decode", f"past_{cache.name}")
            past[f"present.{label}"] = tensor(f"past_key_values.{label}", dtype, 1, cache.heads, length, cache.dim)
    graphs.merged.inputs += past.values()
    given = list(zip([*caches, *crosses], past.values(), strict=True))
    own, read = given[: len(caches)], given[len(caches) :]
    then = _prefill(graphs, ids, heard, caches, crosses)
    return graphs.choose(past, then, _decode(graphs, ids, heard, own, read))


def _parted(b: Builder, heard: ir.Value) -> tuple[ir.Value, ir.Value]:
    """tokens [1, K, D] and token_bias [1, K]."""
    assert heard.shape is not None
    width = int(heard.shape[2]) - FURTHER  # type: ignore[arg-type]
    return (
        b.op("Slice", heard, [0], [width], [2]),
        b.op("Squeeze", b.op("Slice", heard, [width + 1], [width + 2], [2]), [2]),
    )


def _prefill(
    graphs: Graphs, ids: ir.Value, heard: ir.Value, caches: list[Cache], crosses: list[Cache]
) -> tuple[Builder, list[ir.Value]]:
    b, record = Builder("prefill."), graphs.generation
    text, count = prompt(b, ids, record.prompt_length, record.pad)
    tokens, bias = _parted(b, heard)
    given = {"input_ids": text, "tokens": tokens, "token_bias": bias, "last_index": b.op("Sub", count, [1])}
    made = graphs.call(b, "prefill", given)
    presents = [filled(b, made[f"present_{cache.name}"], cache, count) for cache in caches]
    never = [*record.suppress, *record.begin_suppress]
    return b, [graphs.logits(b, made["logits"], never), *presents, *(made[f"cross_{one.name}"] for one in crosses)]


def _decode(
    graphs: Graphs,
    ids: ir.Value,
    heard: ir.Value,
    own: list[tuple[Cache, ir.Value]],
    read: list[tuple[Cache, ir.Value]],
) -> tuple[Builder, list[ir.Value]]:
    b = Builder("decode.")
    # Before the prompt they are of any length; the graph reads them at the bundle's own.
    cross = {
        f"cross_{cache.name}": b.op("Reshape", value, [1, cache.heads, cache.slots, cache.dim]) for cache, value in read
    }
    given = {"input_ids": ids, "token_bias": _parted(b, heard)[1], **cross}
    return b, [*goes_on(b, graphs, own, ids, given), *(value for _, value in read)]
