"""What can be proved about one value of a graph: counts, grid, prefix tokens, and the signals upstream of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import onnx_ir as ir

from ..ir_tools.attention import Attention, attentions
from ..ir_tools.builder import DTYPE_NAMES
from ..ir_tools.token_flow import QUANTISERS, keeps_tokens, prefix_dropped
from ..ir_tools.walk import Walk, attribute, dims
from ..resize.batch_axis import batch_on_tokens
from .channel_axis import tokens_last
from .pooling_heads import head_nodes
from .prefix_tokens import PrefixTokens
from .scopes import module_of
from .seam import Seam, Signal
from .self_attention import attends_to_these

_LAYOUTS = frozenset({"Reshape", "Squeeze", "Transpose", "Unsqueeze"})


class Facts:
    """Describes values as seams; the attentions of the graph are matched once.

    Args:
        walk: of the graph.
        known: see `search`.
    """

    def __init__(self, walk: Walk, known: int = 0) -> None:
        self.walk, self.known = walk, known
        self.attentions = attentions(walk)
        self.heads = head_nodes(walk)
        self.prefixes = PrefixTokens(walk)

    @staticmethod
    def dtype(value: ir.Value) -> str:
        """Element type of a value as this package names it."""
        return DTYPE_NAMES.get(value.dtype, str(value.dtype).lower())  # type: ignore[arg-type]

    def seam(
        self,
        name: str,
        value: ir.Value,
        found_by: str,
        *,
        module: str = "",
        side: str = "output",
        grid: tuple[int, ...] | None = None,
        why: str = "",
    ) -> Seam:
        """The seam at `value`; `why` is a reason against selecting there that the caller already knows."""
        shape = dims(value)
        assert value.name is not None
        common: dict[str, Any] = {"found_by": found_by, "module": module, "side": side}
        problem = _shape_problem(value)
        if problem or shape is None:
            n = shape[-2] if shape and len(shape) >= 2 else None
            dim = shape[-1] if shape else None
            problem = batch_on_tokens(self.walk, value) or problem
            return Seam(name, value.name, n or 0, dim or 0, self.dtype(value), None, valid=False, why=problem, **common)
        batch, length, dim = shape if len(shape) == 3 else (1, *shape)
        assert length is not None and dim is not None and value.dtype is not None
        before = self.walk.ancestors(value)
        prefix, suffix = (0, 0) if length == self.known else self.prefixes.learned(value)
        why = why or (f"{suffix} learned token(s) are appended after the tokens" if suffix else "")
        tokens = length - prefix
        grid = grid or self.grid(before, tokens)
        unseen = "" if grid or tokens == self.known else self.prefixes.unexplained(value, prefix)
        why = batch_on_tokens(self.walk, value) or tokens_last(self.walk, value) or why or unseen
        return Seam(
            name,
            value.name,
            tokens,
            dim,
            DTYPE_NAMES[value.dtype],
            batch,
            prefix,
            grid,
            self.signals(value, before, tokens),
            valid=not why,
            why=why,
            rank=len(shape),
            **common,
        )

    def prefix(self, value: ir.Value) -> int:
        """Leading tokens of `value` [B, n, D] or [n, D] that are not patches; 0 if its shape is unknown."""
        shape = dims(value)
        if shape is None or len(shape) not in (2, 3) or shape[-2] is None:
            return 0
        return self.prefixes.learned(value)[0]

    def grid(self, before: set[ir.Node], tokens: int) -> tuple[int, ...] | None:
        """(height, width) or (length,) where an upstream convolution or pooling has exactly `tokens` output positions.

        A square patch grid that was merged f x f after the convolution proves its (h / f, w / f) too.
        """
        patches: tuple[int, ...] | None = None
        steps = [node for node in before if node.op_type in ("Conv", "AveragePool", "MaxPool")]
        for node in reversed(self.walk.sorted(steps)):
            shape = dims(node.outputs[0])
            sizes = shape[2:] if shape is not None else ()
            if not sizes or None in sizes or len(sizes) > 2:
                continue
            count = 1
            for size in sizes:
                count *= size or 0
            if count == tokens:
                return sizes  # type: ignore[return-value]
            patches = patches or sizes  # type: ignore[assignment]
        if patches and len(patches) == 2 and patches[0] == patches[1]:
            side = int(tokens**0.5 + 0.5)
            if side > 1 and side * side == tokens and side < patches[0] and patches[0] % side == 0:
                return side, side
        return None

    def signals(self, value: ir.Value, before: set[ir.Node], tokens: int) -> dict[str, Signal]:
        """Signals of the last self-attention before `value`, if it has the same tokens in the same order."""
        last = next((a for a in reversed(self.attentions) if a.node in before and len(set(a.lengths)) == 1), None)
        if last is None or last.lengths[0] is None:
            return {}
        downstream = self.walk.descendants(last.node.outputs[0]) & before
        flat = len(dims(value) or ()) == 2
        for node in downstream:
            kept = keeps_tokens(self.walk, node) or prefix_dropped(node) or _mixes_values(node, last)
            # In a stream without a batch `attends_to_these` follows the tokens by name, wherever their axis goes.
            if not (kept or (flat and _layout(node))):
                return {}
        if not attends_to_these(self.walk, last, value):
            return {}
        length = last.lengths[0]
        prefix, suffix = self.prefixes.learned(last.node.outputs[0], length)
        if suffix or length - prefix != tokens:
            return {}
        weights = _weights(last, prefix)
        found = {
            "cls_attention": weights if prefix else None,
            "received_attention": weights,
            "keys": _keys(last, prefix),
        }
        module = module_of(last.node) or ""
        return {name: replace(signal, module=module) for name, signal in found.items() if signal is not None}


def _shape_problem(value: ir.Value) -> str:
    shape = dims(value)
    if shape is None:
        return "its shape is unknown"
    if len(shape) not in (2, 3):
        return f"its rank is {len(shape)}, a compressor needs [B, N, D] or [N, D]"
    if len(shape) == 2 and shape[0] == 1:
        return "its rank is 2 with one row: a vector for the whole input, not tokens"
    if shape[-2] is None:
        return f"its token axis is dynamic ({value.shape[-2]})"  # type: ignore[index]
    if shape[-1] is None:
        return f"its channel axis is dynamic ({value.shape[-1]})"  # type: ignore[index]
    if value.dtype not in DTYPE_NAMES or not value.dtype.is_floating_point():
        return f"its type is {value.dtype}, a compressor needs float32, float16 or bfloat16"
    return ""


def _layout(node: ir.Node) -> bool:
    """Whether a node moves, joins or drops whole axes."""
    return node.op_type in _LAYOUTS or (node.op_type == "Gather" and dims(node.inputs[1]) == ())


def _mixes_values(node: ir.Node, attention: Attention) -> bool:
    """Whether this is the product of the attention weights with V: the mixing that is the attention itself."""
    weights = {attention.weights, attention.node.outputs[0]}
    for value in node.inputs[:1]:
        while value is not None and value not in weights:
            producer = value.producer()
            if producer is None or producer.op_type not in ("Cast", "Dropout", "Identity", "Where", *QUANTISERS):
                break
            value = producer.inputs[-1] if producer.op_type == "Where" else producer.inputs[0]
        if value in weights:
            return node.op_type in ("MatMul", "FusedMatMul", "Einsum")
    return False


def _weights(attention: Attention, prefix: int) -> Signal | None:
    if attention.weights is not None:
        assert attention.weights.name is not None
        return Signal("attention", (attention.weights.name,), prefix=prefix)
    node, query, key = attention.node, attention.query, attention.key
    causal = attribute(node, "is_causal", 0)
    # Keys with fewer heads than queries would have to be repeated, and no known encoder has them.
    grouped = key is None or query is None or (dims(key.value) or ())[-1] != (dims(query.value) or ())[-1]
    if key is not None and query is not None and key.layout == "BHND":
        grouped = (dims(key.value) or ())[1] != (dims(query.value) or ())[1]
    if causal or grouped or query is None or key is None:
        return None
    return Signal(
        "query_key",
        (query.value.name or "", key.value.name or ""),
        attention.scale,
        prefix,
        query.layout,
        attention.heads,
        node.outputs[0].name or "",
    )


def _keys(attention: Attention, prefix: int) -> Signal | None:
    key = attention.key
    if key is None or not key.value.name:
        return None
    heads = attention.heads
    if key.layout == "BNE":
        own = "kv_num_heads" if attention.node.domain == "" else "num_heads"
        heads = int(attribute(attention.node, own, 0)) or None  # type: ignore[call-overload]
        if heads is None:
            return None
    return Signal("keys", (key.value.name,), key.scale, prefix, key.layout, heads)
