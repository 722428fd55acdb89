"""What other runtimes hand from an encoder to a language model: one row of numbers for each token.

Between their graphs nothing else travels, so a row holds all that a language graph of ours reads of a token:

    token of an image   [features (D), kept index, log(size)]
    word                [its id, zeros (D - 1), -1, 0]

in float32, in which ids up to 2^24 are exact. The table of words stays inside the decoder, which reads the id.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from ...graph_passes.ir_tools.builder import Builder
from .branches import Merged, axes, tensor

# Channels behind the features, and what a word has in the first of them.
FURTHER = 2
WORD = -1.0


def encoder(
    model: ir.Model, roles: Mapping[str, str], names: tuple[str, str], width: int, *, size_bias: bool, batch: bool
) -> ir.Model:
    """The encoder with one output, rows of `width` + 2 channels.

    Args:
        model: the encoder of a bundle, with one input.
        roles: of its outputs: role -> name; kept_indices and sizes only where it compresses.
        names: of input and output.
        width: D.
        size_bias: whether the language model reads log(size); zeros where it does not.
        batch: whether the output is [1, K, width + 2] or [K, width + 2].
    """
    given = model.graph.inputs[0]
    shape = axes(given)
    pixels = tensor(names[0], ir.DataType.FLOAT, *shape)
    merged = Merged("encoder", [pixels])
    b = merged.body
    assert given.dtype is not None
    made = merged.call(b, "encoder", model, {given.name or "": cast(b, pixels, given.dtype)})
    tokens = made[roles["tokens"]]
    count = next(value.shape for value in model.graph.outputs if value.name == roles["tokens"])
    assert count is not None
    rows = int(count[1])  # type: ignore[arg-type]
    features = cast(b, tokens, ir.DataType.FLOAT)
    if "kept_indices" in roles:
        kept = b.cast(made[roles["kept_indices"]], "float32")
    else:
        kept = b.const(np.arange(rows, dtype=np.float32)[None])
    bias = log_sizes(b, made, roles, rows, size_bias=size_bias)
    packed = b.op("Concat", features, b.op("Unsqueeze", kept, [2]), b.op("Unsqueeze", bias, [2]), axis=2)
    lead = [1] if batch else []
    result = b.op("Reshape", packed, [*lead, rows, width + FURTHER])
    result.type, result.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([*lead, rows, width + FURTHER])
    return merged.model({names[1]: result})


def log_sizes(
    b: Builder, made: Mapping[str, ir.Value], roles: Mapping[str, str], count: int, *, size_bias: bool
) -> ir.Value:
    """token_bias [1, K = `count`] float32 of an encoder's outputs `made`; zeros where nothing is merged."""
    if not size_bias or "sizes" not in roles:
        return b.const(np.zeros((1, count), np.float32))
    return b.op("Log", cast(b, made[roles["sizes"]], ir.DataType.FLOAT))


def words(width: int, features: str = "", image: int = -1) -> ir.Model:
    """input_ids [1, S] int64 -> inputs_embeds [1, S, width + 2]: the row of each word.

    Args:
        width: D.
        features: name of a further input [n, width + 2], whose rows stand where the id is `image`, in order; n = 0
            where there is no image. Empty: the runtime puts them there itself.
        image: id of a placeholder.
    """
    ids = tensor("input_ids", ir.DataType.INT64, 1, "sequence_length")
    given = [ids]
    merged = Merged("words", given)
    b = merged.body
    # No axis of a Pad is named up to opset 18: [1, S, 1] grows behind its last.
    row = of_words(b, b.op("Pad", b.op("Unsqueeze", b.cast(ids, "float32"), [2]), [0, 0, 0, 0, 0, width - 1], 0.0))
    if features:
        rows = tensor(features, ir.DataType.FLOAT, "image_tokens", width + FURTHER)
        merged.inputs.append(rows)
        row = with_image(b, row, ids, rows, image)
    row.type = ir.TensorType(ir.DataType.FLOAT)
    row.shape = ir.Shape([1, "sequence_length", width + FURTHER])
    model = merged.model({"inputs_embeds": row})
    model.graph.opset_imports[""] = 18
    return model


def of_words(b: Builder, features: ir.Value) -> ir.Value:
    """[B, S, D] float32 of words as rows [B, S, D + 2]."""
    row = b.op("Pad", features, [0, 0, 0, 0, 0, 1], WORD)
    return b.op("Pad", row, [0, 0, 0, 0, 0, 1], 0.0)


def with_image(b: Builder, words: ir.Value, ids: ir.Value, rows: ir.Value, image: int) -> ir.Value:
    """Rows [1, S, D + 2] of words, and those of an image [n, D + 2] in order where the ids [1, S] are `image`."""
    here = b.cast(b.op("Equal", ids, image), "int64")
    count = b.op("Mul", b.op("CumSum", here, 1), here)
    # In an answer the id of the placeholder is a word like any other.
    count = b.op("Mul", count, b.cast(b.op("LessOrEqual", count, b.op("Shape", rows, start=0, end=1)), "int64"))
    # Row 0 stands for none.
    found = b.op("Gather", b.op("Pad", rows, [1, 0, 0, 0], 0.0), count, axis=0)
    return b.op("Where", b.op("Unsqueeze", b.op("Greater", count, 0), [2]), found, words)


def cast(b: Builder, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    """`value` in `dtype`."""
    return value if value.dtype == dtype else b.op("Cast", value, to=int(dtype))


def with_axis(model: ir.Model) -> ir.Model:
    """An encoder of pictures [1, C, H, W] as one of [1, 1, C, H, W], in place."""
    graph = model.graph
    given = graph.inputs[0]
    shape = axes(given)
    b = Builder("axis.")
    new = tensor(given.name or "", given.dtype or ir.DataType.FLOAT, 1, *shape)
    given.name = f"{given.name}.one"
    flat = b.op("Reshape", new, [axis if isinstance(axis, int) else -1 for axis in shape])
    flat.type, flat.shape = given.type, given.shape
    for node, index in list(given.uses()):
        node.replace_input_with(index, flat)
    graph.insert_before(graph[0], b.nodes)
    graph.inputs[0] = new
    return model
