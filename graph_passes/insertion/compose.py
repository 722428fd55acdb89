"""Two compressors in sequence as one: kept_indices, assignment and sizes about the tokens of the first.

The first compresses N tokens to K' slots and outputs kept', assignment' and sizes'; the second compresses those slots
to K and outputs kept and assignment. Together:

    kept_indices  kept'[kept]              position among the N tokens
    assignment    assignment[assignment']  slot of the second for each of the N tokens; -1 where either dropped it
    sizes         sum of sizes' over the slots merged into one; for a slot that nothing is assigned to, the size of the
                  slot that it kept

So `sizes` count the N tokens, also where they were merged twice. A signal that is computed upstream of the first
compressor is gathered at its kept_indices for the second: a slot takes the attention and the keys of the token at its
position, not sums or means over the tokens merged into it, because a slot of a selection is exactly that token.
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

# The tokens themselves are those of the second compressor.
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
    """The formula above as nodes: `COMPOSED` of the first, and of the second, which keeps `keep`, to those of both."""
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
    """The rows of a signal [B, N] or [B, N, D] at `kept` [B, K]."""
    return select.gather(signal, kept) if signal.ndim == 3 else signal.gather(1, kept)


def emit_gathered(b: Builder, signal: ir.Value, kept: ir.Value) -> ir.Value:
    """The same as nodes."""
    assert signal.shape is not None, "signals have shapes"
    if len(signal.shape) == 3:
        return select.emit_gather(b, signal, kept)
    return b.op("GatherElements", signal, kept, axis=1)
