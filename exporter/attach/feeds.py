"""What a language model's graph is given in a proof: every input by its role, at one length."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ...errors import GraphError
from ...graph_passes.ir_tools.input_shapes import given_inputs, option
from ...graph_passes.ir_tools.walk import attribute, dims
from ..debug.sides import Arrays, Input

# Tokens in the cache, and those that are new, where the file leaves them open.
_PAST, _NEW = 6, 5


@dataclass(frozen=True)
class Lengths:
    """Of one call: `past` tokens in the cache, `new` ones, and the `keys` that they attend to."""

    past: int
    new: int
    keys: int


def lengths(model: ir.Model, tokens: str, given: Mapping[str, Sequence[int]]) -> Lengths:
    """The lengths of a call.

    Args:
        model: the graph.
        tokens: its input [B, n] or [B, n, D].
        given: sizes of inputs that the user fixed.
    """
    inputs = {value.name or "": value for value in given_inputs(model.graph)}

    def size(name: str, axis: int) -> int | None:
        return given[name][axis] if name in given else (dims(inputs[name]) or (None,) * 4)[axis]

    caches = [name for name in inputs if is_cache(inputs[name], tokens)]
    new = size(tokens, 1) or (_NEW if caches else _PAST + _NEW)
    past = (size(caches[0], 2) or _PAST) if caches else 0
    mask = inputs.get("attention_mask")
    keys = size("attention_mask", -1) if mask is not None else None
    return Lengths(past, new, keys or past + new)


def head_sizes(model: ir.Model, tokens: str, length: Lengths) -> dict[str, Sequence[int]]:
    """Name -> sizes [1, G, past, d] of caches whose d the file leaves open, where a GroupQueryAttention tells it."""
    found: dict[str, Sequence[int]] = {}
    for value in given_inputs(model.graph):
        sizes = dims(value)
        if not is_cache(value, tokens) or sizes is None or sizes[1] is None or sizes[3] is not None:
            continue
        for node in value.consumers():
            query = dims(node.inputs[0])
            if node.op_type == "GroupQueryAttention" and query and query[-1]:
                heads = int(attribute(node, "num_heads", 1))  # type: ignore[call-overload]
                # Where there are no keys of their own, the queries are queries, keys and values in one.
                count = heads if node.inputs[1] is not None else heads + 2 * sizes[1]
                found[value.name or ""] = [1, sizes[1], length.past, query[-1] // count]
    return found


def shapes(
    model: ir.Model, tokens: str, bias: str, given: Mapping[str, Sequence[int]], length: Lengths
) -> dict[str, Sequence[int]]:
    """The sizes of every input, one sequence; `bias` is one [B, keys].

    Raises:
        GraphError: an axis of no fixed length has no meaning that is known.
    """
    found = {}
    for value in given_inputs(model.graph):
        name, known = value.name or "", dims(value)
        if name in given:
            found[name] = given[name]
        elif name == bias:
            found[name] = [1, length.keys]
        elif known is None:
            raise _open(value)
        else:
            found[name] = [_size(value, axis, known, tokens, length) for axis in range(len(known))]
    return found


def arrays(inputs: Mapping[str, Input], tokens: str, bias: str, length: Lengths, seed: int) -> Arrays:
    """Every input: seeded tokens and caches, all of them attended to, at the positions that follow each other.

    Args:
        inputs: by name, of fixed sizes.
        tokens: of these, what holds the tokens.
        bias: the input for log(size): zeros.
        length: of the call.
        seed: of what is random.
    """
    found = {}
    for name, wanted in inputs.items():
        shape = tuple(size or 1 for size in wanted.shape or ())
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        if name == bias:
            array: np.ndarray = np.zeros(shape)
        elif name == tokens and wanted.dtype.kind in "iu":
            array = rng.integers(0, wanted.limit or 2, shape)
        elif "position" in name:
            array = np.broadcast_to(np.arange(length.past, length.past + length.new), shape)
        elif name in ("seqlens_k", "total_sequence_length", "past_sequence_length", "past_seq_len"):
            count = {"seqlens_k": length.keys - 1, "total_sequence_length": length.keys}.get(name, length.past)
            array = np.full(shape, count)
        elif wanted.dtype.kind == "f" and "mask" in name:
            array = causal(length)[..., : shape[-1]] if len(shape) == 4 else np.zeros(shape)
            array = np.broadcast_to(array, shape)
        elif wanted.dtype.kind == "f":
            array = rng.standard_normal(shape)
        else:
            array = np.ones(shape)
        found[name] = np.ascontiguousarray(array.astype(wanted.dtype))
    return found


def causal(length: Lengths) -> np.ndarray:
    """[1, 1, new, keys] float32 that is added to logits: each token sees the cache and what is not after it."""
    keys, own = np.arange(length.keys), np.arange(length.new)[:, None] + length.past
    return np.where(keys <= own, 0, np.finfo(np.float32).min).astype(np.float32)[None, None]


def is_cache(value: ir.Value, tokens: str) -> bool:
    """Whether an input holds the keys or values of a layer; `tokens` is the one that holds the tokens."""
    name, floats = value.name or "", value.dtype is not None and value.dtype.is_floating_point()
    return name != tokens and floats and len(dims(value) or ()) == 4 and "mask" not in name


def _size(value: ir.Value, axis: int, known: tuple[int | None, ...], tokens: str, length: Lengths) -> int:
    held, name, rank = known[axis], value.name or "", len(known)
    if held is not None:
        return held
    if axis == 0:
        # A bare count of positions, or the batch.
        return length.new if rank == 1 and "position" in name else 1
    if "mask" in name:
        return length.keys if axis == rank - 1 else 1 if axis == 1 and rank == 4 else length.new
    if name == tokens or "position" in name:
        if axis == 1 or axis == rank - 1:
            return length.new
    elif is_cache(value, tokens) and axis == 2:
        return length.past
    raise _open(value)


def _open(value: ir.Value) -> GraphError:
    return GraphError(
        f"input {value.name} is {value.shape or 'of unknown rank'}, and which length its open axes have is not known",
        fix=f"Name its sizes: {option(value)}.",
    )
