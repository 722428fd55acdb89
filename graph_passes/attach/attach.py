"""`attach()`: both inputs for merged tokens, put into anyone's language model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from ...errors import GraphError
from ..ir_tools.transaction import all_or_nothing
from ..ir_tools.walk import Walk, dims
from .bias import add_bias, inputs_of, masks, places
from .positions import reads, refuse_baked, replace, rotate_outside

BIAS = "token_bias"


@dataclass(frozen=True)
class Attached:
    """What `attach` did.

    Attributes:
        bias: name of the input [B, keys] float32.
        attentions: names of the nodes that read it.
        positions: name of the input [B, n] of positions; empty where the graph reads none, or they were kept.
        counted: the value that held them before, where the graph counted them itself.
        offset: what that value was for the first token.
        tokens: the input [B, n] of ids or [B, n, D] of embeddings.
        rotated: attention operators whose rotation was put before them.
        masked: whether some attention is masked token by token; GroupQueryAttention by itself only counts them.
    """

    bias: str
    attentions: tuple[str, ...]
    positions: str
    counted: str
    offset: int
    tokens: str
    rotated: int
    masked: bool


def attach(
    model: ir.Model, bias: str = BIAS, positions: Literal["input", "keep"] = "input", offset: int = 0
) -> Attached:
    """Add the inputs `bias` [B, keys] and, where the graph counts positions itself, ``position_ids`` [B, n], in place.

    The bias is added to the logits of every attention: log(size) for a token that was merged of `size` others, 0 for
    any other. `keys` counts all tokens that are attended to: those of the cache come first.

    Args:
        model: a language model of one sequence, without local functions.
        bias: name of the new input.
        positions: ``keep`` leaves positions as they are.
        offset: what the graph counts its first token as, where it counts them itself: OPT begins at 2.

    Raises:
        GraphError: no attention is found, one takes no bias, there is cross-attention, or positions are constants.
    """
    with all_or_nothing(model) as clone:
        walk = Walk(clone)
        found = places(walk)
        tokens = _tokens(walk, inputs_of(walk, found[0].query))
        counted, given, rotated = "", "", 0
        if positions == "input":
            rotated = rotate_outside(walk, tokens)
            walk = Walk(clone) if rotated else walk
            read = reads(walk, {tokens})
            inputs = {one.source.name or "" for one in read if one.source in walk.graph.inputs}
            own = [one for one in read if one.source not in walk.graph.inputs]
            if own:
                counted, given = own[0].value.name or "", replace(walk, own, tokens, offset).name or ""
            else:
                given = ", ".join(sorted(inputs))
            if not read:
                refuse_baked(walk, found[0].query, found[0].key, tokens)
            walk = Walk(clone)
            found = places(walk)
        masked = any(masks(place) for place in found)
        added = add_bias(walk, found, bias)
        names = tuple(place.name for place in found)
    return Attached(added.name or "", names, given, counted, offset, tokens.name or "", rotated, masked)


def _tokens(walk: Walk, read: set[ir.Value]) -> ir.Value:
    """The input that holds the tokens: ids [B, n], of a name that says so, or embeddings [B, n, D]."""
    embeddings = [
        one for one in read if len(dims(one) or ()) == 3 and one.dtype is not None and one.dtype.is_floating_point()
    ]
    ids = [one for one in read if len(dims(one) or ()) == 2 and one.name not in ("attention_mask", "position_ids")]
    named = [one for one in (*ids, *embeddings) if one.name in ("input_ids", "inputs_embeds")]
    found = named or embeddings or ids
    if len(found) != 1:
        told = ", ".join(one.name or "" for one in walk.graph.inputs)
        raise GraphError(
            f"{'no input' if not found else 'more than one input'} of the graph holds its tokens",
            where=f"graph {walk.graph.name}, inputs {told}",
            fix="A language model has an input input_ids [B, n] or inputs_embeds [B, n, D]: export it so.",
        )
    return found[0]
