"""A decoder that somebody else exported, as a decoder of the rows of `packed`.

    inputs_embeds [B, S, D + 2] float32, position_ids [B, S] as the runtime counts them, the decoder's other inputs,
    past_key_values.<L>.key and .value [B, 1, T, c]
    -> its outputs, present.<L>.key and .value [B, 1, T + S, c]

L is the number of its layers. The cache of that one layer more holds what later steps need of each token: its key
log(size), its value by how many positions the text behind it has moved. c is 1, or in half precision 2, which add up.

A token of an image stands where it stood among all N: at the place of its image, plus its kept index. Text moves by
N - K for each image before it.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from ...errors import GraphError
from ...graph_passes.ir_tools.builder import Builder
from ...graph_passes.ir_tools.input_shapes import given_inputs
from .branches import Merged, axes, require, tensor
from .graphs import float32, parts, parts_of
from .packed import FURTHER, cast, of_words, with_image

EMBEDS, POSITIONS = "inputs_embeds", "position_ids"


@dataclass(frozen=True)
class Reads:
    """What a decoder reads, by the names of its inputs.

    Attributes:
        embeds: of [B, S, D].
        positions: of [B, S].
        bias: of [B, T + S] float32; empty where it is told none.
        past: of the key and value of one layer, [B, G, T, d].
        present: of their outputs.
        carried: names of past key, past value, present key and present value of the layer more.
    """

    embeds: str
    positions: str
    bias: str
    past: tuple[str, str]
    present: tuple[str, str]
    carried: tuple[str, str, str, str]


def decoder(model: ir.Model, reads: Reads, width: int, kept: int, tokens: int) -> ir.Model:
    """The decoder of rows; see the docstring of this module.

    Args:
        model: is not changed.
        reads: of it.
        width: D.
        kept: K of an image.
        tokens: N.
    """
    own = {value.name or "": value for value in given_inputs(model.graph)}
    outer = {name: _like(value) for name, value in own.items() if name not in (reads.embeds, reads.bias)}
    merged = Merged("decoder", [])
    b, dtype = merged.body, own[reads.past[0]].dtype
    sizes, embeds = own[reads.past[0]].shape, own[reads.embeds]
    assert dtype is not None and sizes is not None and embeds.shape is not None and embeds.dtype is not None
    rows = tensor(EMBEDS, ir.DataType.FLOAT, *axes(embeds)[:2], width + FURTHER)
    positions = tensor(POSITIONS, own[reads.positions].dtype or ir.DataType.INT64, *axes(own[reads.positions]))
    outer[reads.positions] = positions
    batch, _, past, _ = axes(own[reads.past[0]])
    carried = [tensor(name, dtype, batch, 1, past, parts_of(dtype)) for name in reads.carried[:2]]
    merged.inputs += [rows, *outer.values(), *carried]

    told = _column(b, rows, width + 1)
    moved, through = _moved(b, _column(b, rows, width), _past(b, carried[1]), kept, tokens)
    fed = {
        **outer,
        reads.embeds: cast(b, b.op("Slice", rows, [0], [width], [2]), embeds.dtype),
        reads.positions: b.op("Add", positions, b.op("Cast", moved, to=int(positions.dtype or ir.DataType.INT64))),
    }
    if reads.bias:
        fed[reads.bias] = b.op("Concat", _past(b, carried[0]), told, axis=1)
    made = merged.call(b, "decoder", model, fed)
    present = next(value for value in model.graph.outputs if value.name == reads.present[0])
    after = axes(present)[2] if present.shape is not None else f"{past}_after"
    for name, cache, value in zip(reads.carried[2:], carried, (told, through), strict=True):
        columns = [b.op("Unsqueeze", one, [2]) for one in parts(b, value, dtype)]
        new = b.op("Unsqueeze", b.op("Concat", *columns, axis=2), [1])
        made[name] = b.op("Concat", cache, new, axis=2)
        made[name].type, made[name].shape = ir.TensorType(dtype), ir.Shape([batch, 1, after, parts_of(dtype)])
    for value in model.graph.outputs:
        made[value.name or ""].type, made[value.name or ""].shape = value.type, value.shape
    return merged.model(made)


def words(model: ir.Model, width: int, *, features: str = "", image: int = -1, own: bool = False) -> ir.Model:
    """A graph of somebody else that makes [B, S, D] of ids [B, S], as one that makes rows.

    Args:
        model: is not changed.
        width: D.
        features: name of a further input [n, D + 2], the rows of an image; empty: the runtime puts them there itself.
        image: id of a placeholder.
        own: whether `model` has that input too, [n, D].

    Raises:
        GraphError: it has other inputs.
    """
    given = {value.name or "": value for value in given_inputs(model.graph)}
    if len(given) != 1 + own or (own and features not in given) or len(model.graph.outputs) != 1:
        raise GraphError(
            f"the graph of its words takes {', '.join(given)}, and not ids{f' and {features}' if own else ''} alone",
            where=f"graph {model.graph.name}",
            fix="Export the words as a graph of input_ids -> inputs_embeds.",
        )
    ids = next(value for name, value in given.items() if name != features)
    merged = Merged("words", [_like(ids)])
    b, (read,) = merged.body, merged.inputs
    assert ids.name is not None
    fed = {ids.name: read}
    if features:
        rows = tensor("image_features", ir.DataType.FLOAT, "image_tokens", width + FURTHER)
        merged.inputs.append(rows)
        if own:
            fed[features] = cast(b, b.op("Slice", rows, [0], [width], [1]), given[features].dtype or ir.DataType.FLOAT)
        else:
            # The place of an image may be behind the table.
            none = b.op("Cast", 0, to=int(read.dtype or ir.DataType.INT64))
            fed[ids.name] = b.op("Where", b.op("Equal", b.cast(read, "int64"), image), none, read)
    read.name = "input_ids"
    (made,) = merged.call(b, "words", model, fed).values()
    row = of_words(b, float32(b, made))
    if features:
        row = with_image(b, row, b.cast(read, "int64"), rows, image)
    row.type, row.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([*axes(ids)[:2], width + FURTHER])
    return merged.model({EMBEDS: row})


def _moved(b: Builder, kept: ir.Value, before: ir.Value, count: int, tokens: int) -> tuple[ir.Value, ir.Value]:
    """By how many positions each new token has moved, and the text behind it, [B, S] float32.

    Args:
        b: of the graph.
        kept: kept index of each new token, or below 0, [B, S].
        before: how far text had moved behind each token of the cache, [B, T].
        count: K.
        tokens: N.
    """
    placed = b.op("GreaterOrEqual", kept, 0.0)
    seen = b.op("CumSum", b.cast(placed, "int64"), 1)
    whole = b.op("Mod", b.op("Slice", seen, [-1], [2**31], [1]), count)
    fits = b.op("Equal", b.op("ReduceMax", whole, keepdims=0), 0)
    checked = require(b, fits, f"an image has {count} placeholders, one behind the other")
    # Of the token before these; 0 where there is none.
    ends = b.op("Slice", b.op("Pad", before, [0, 1, 0, 0], 0.0), [-1], [2**31], [1])
    ends = b.op("Add", ends, b.cast(checked, "float32"))
    place = b.op("Max", b.op("Sub", seen, 1), 0)
    own = b.op("Sub", b.op("Mul", b.op("Div", place, count), tokens - count), b.op("Mod", place, count))
    own = b.op("Add", b.cast(own, "float32"), kept)
    text = b.cast(b.op("Mul", b.op("Div", seen, count), tokens - count), "float32")
    through = b.op("Add", ends, text)
    return b.op("Where", placed, b.op("Add", ends, own), through), through


def _column(b: Builder, rows: ir.Value, at: int) -> ir.Value:
    return b.op("Squeeze", b.op("Slice", rows, [at], [at + 1], [2]), [2])


def _past(b: Builder, cache: ir.Value) -> ir.Value:
    """What lies in a cache [B, 1, T, c] for each token, [B, T] float32."""
    return b.op("ReduceSum", float32(b, b.op("Squeeze", cache, [1])), [2], keepdims=0)


def _like(value: ir.Value) -> ir.Value:
    return ir.Value(name=value.name, type=value.type, shape=value.shape)
