"""Two compressors in a row as one: where each slot of the second lies among the tokens of the first, and what it holds.

For the outputs of the first, over N tokens, and of the second, over the K' slots of the first:

    kept_indices  kept'[kept]                       the position of the slot that the second kept
    assignment    assignment[assignment'], else -1  where the slot went that the token had gone into
    sizes         the sum of sizes' over the slots that went into it; the size of the slot it kept where none did

So `sizes` count tokens of the first, whatever was merged twice. A signal that was read in front of the first compressor
is gathered at its kept_indices for the second: attention and keys of a slot are those of the token whose position it
inherits, not sums or means over what it holds, because a slot of a selection is that token and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..compressors.base import OUTPUTS, Compressed
from ..compressors.blocks import select

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from ..ir_tools.builder import Builder

# What is composed: tokens are those of the second.
COMPOSED = OUTPUTS[1:]


def compose(
    first: Compressed[torch.Tensor], second: Compressed[torch.Tensor], *, merges: bool
) -> Compressed[torch.Tensor]:
    """The formula above in plain PyTorch.

    Args:
        first: [B, N] -> [B, K'].
        second: [B, K'] -> [B, K].
        merges: whether the second does.
    """
    kept = first.kept_indices.gather(1, second.kept_indices)
    went = second.assignment.gather(1, first.assignment.clamp(min=0))
    assignment = went.where(first.assignment >= 0, went.new_full((), -1))
    sizes = first.sizes.gather(1, second.kept_indices)
    if merges:
        inside = second.assignment >= 0
        slot = second.assignment.clamp(min=0)
        held = sizes.new_zeros(sizes.shape).scatter_add(1, slot, first.sizes * inside)
        count = sizes.new_zeros(sizes.shape).scatter_add(1, slot, inside.float())
        sizes = held.where(count > 0, sizes)
    return Compressed(second.tokens, kept, sizes, assignment)


def emit_compose(
    b: Builder, first: Mapping[str, ir.Value], second: Mapping[str, ir.Value], keep: int, *, merges: bool
) -> dict[str, ir.Value]:
    """The formula above as nodes: `COMPOSED` of the first and of the second, which keeps `keep`, to that of both."""
    picked = second["kept_indices"]
    kept = b.op("GatherElements", first["kept_indices"], picked, axis=1)
    slot = b.cast(first["assignment"], "float32")
    reached = b.cast(b.op("Max", slot, 0.0), "int64")
    went = b.cast(b.op("GatherElements", second["assignment"], reached, axis=1), "float32")
    assignment = b.cast(b.op("Where", b.op("Less", slot, 0.0), -1.0, went), "int64")
    sizes = b.op("GatherElements", first["sizes"], picked, axis=1)
    if merges:
        members, count = select.emit_members(b, b.cast(second["assignment"], "float32"), keep)
        # A sum, not a MatMul, which TF32 would round.
        held = b.op("ReduceSum", b.op("Mul", members, b.op("Unsqueeze", first["sizes"], [1])), [2], keepdims=0)
        sizes = b.op("Where", b.op("Greater", b.op("Squeeze", count, [2]), 0.0), held, sizes)
    return dict(zip(COMPOSED, (kept, sizes, assignment)))


def gathered(signal: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """A signal [B, N, ...] of tokens as that of the slots at kept [B, K]."""
    return select.gather(signal, kept) if signal.ndim == 3 else signal.gather(1, kept)


def emit_gathered(b: Builder, signal: ir.Value, kept: ir.Value) -> ir.Value:
    """The same as nodes."""
    assert signal.shape is not None, "signals have shapes"
    if len(signal.shape) == 3:
        return select.emit_gather(b, signal, kept)
    return b.op("GatherElements", signal, kept, axis=1)
